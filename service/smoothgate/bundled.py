"""The models that ship with Smoothgate: small LLaVAs with their PSM and sample pictures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model in a package of its own.

    Attributes:
        name: of the package, and of the model as `SMOOTHGATE_MODEL` and `--model` name it.
        questions: one phrasing of each kind of question about one picture that it answers. The playground
            shows them, and documents ask the first.
        sample: file of the sample picture that documents and the playground show first.
        choices: the answers to the first question, for a certified answer.
        hint: what the playground invites to, where there is no picture yet.
        certify: what is certified where neither a request nor the operator names it.
    """

    name: str
    questions: tuple[str, ...]
    sample: str
    choices: tuple[str, ...]
    hint: str
    certify: Literal["features", "answer"]

    @property
    def served_name(self) -> str:
        """The name towards clients."""
        return f"smoothgate-{self.name}"

    @property
    def model(self) -> Path:
        """Folder of the checkpoint."""
        return self._folder("model")

    @property
    def psm(self) -> Path:
        """Folder of purifier, mapper and calibration."""
        return self._folder("psm")

    @property
    def samples(self) -> Path:
        """Folder of the sample pictures, PNG files."""
        return self._folder("samples")

    def _folder(self, name: str) -> Path:
        return Path(str(files(f"smoothgate.{self.name}") / name))


#: Answers questions about scenes of real handwritten digits.
DEMO = BundledModel(
    name="demo",
    questions=(
        "What digit is shown?",
        "What color is the digit?",
        "What color is the background?",
        "Is the background plain, striped or spotted?",
        "Is the digit even or odd?",
        "Describe the image.",
    ),
    sample="seven.png",
    choices=tuple(f"The digit is {digit}." for digit in range(10)),
    hint="Draw a digit, drop or paste an image",
    certify="features",
)

#: The classes of Fashion-MNIST, in their order, as answers name them.
FASHION_NOUNS = (
    "a T-shirt",
    "a pair of trousers",
    "a pullover",
    "a dress",
    "a coat",
    "a sandal",
    "a shirt",
    "a sneaker",
    "a bag",
    "an ankle boot",
)

#: Answers questions about photographs of clothes, shoes and bags, the pictures of Fashion-MNIST. Those of one
#: class have nearly the same features, so bounds on cosines say little of a picture: answers are certified.
PHOTOS = BundledModel(
    name="photos",
    questions=(
        "What is shown?",
        "Is it a garment, footwear or an accessory?",
        "Is this a bag?",
        "Describe the picture.",
    ),
    sample="sneaker.png",
    choices=tuple(f"A photo of {noun}." for noun in FASHION_NOUNS),
    hint="Draw, drop or paste a picture of clothes, shoes or a bag",
    certify="answer",
)

_ALL = {each.name: each for each in (DEMO, PHOTOS)}

#: The picture that canaries send to any model, and that calibration scores for them.
CANARY = DEMO.samples / "seven.png"


def bundled(model: str | None) -> BundledModel | None:
    """The bundled model of this name, the demo model for None, and None for any other checkpoint."""
    return DEMO if model is None else _ALL.get(model)


def checkpoint_of(model: str | None) -> str:
    """The folder of a bundled model, the demo model's for None; any other checkpoint is itself."""
    found = bundled(model)
    return str(model) if found is None else str(found.model)


def psm_of(model: str | None, psm: Path | None) -> Path | None:
    """The folder that is named, or the one of a bundled model. None: another checkpoint needs one."""
    found = bundled(model)
    return psm if psm is not None or found is None else found.psm
