"""The evaluation of defences under attack: `smoothgate evaluate`.

The work consists of cells: a defence, an attack (or none) and a ball. A cell writes a line of JSON per
picture as soon as it is done, and a restarted run continues where the lines end. Transferred attacks are
crafted once, on the plan's undefended model, and shown to every defence. Adaptive attacks are crafted on
each defence.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from smoothgate.bundled import DEMO
from smoothgate.errors import SmoothgateError
from smoothgate.pictures.images import to_picture
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling.draw import noisy
from smoothgate.vision import load
from smoothgate.vision.png import encode_png
from smoothgate_lab.chat_models.answerer import Answerer, answers
from smoothgate_lab.chat_models.chats import Question
from smoothgate_lab.evaluation.attacked_scenes import AttackedScenes, attacked_digits
from smoothgate_lab.evaluation.attacks import objectives
from smoothgate_lab.evaluation.attacks.art_attacks import art_square, hop_skip_jump
from smoothgate_lab.evaluation.attacks.auto_attack import auto_attack
from smoothgate_lab.evaluation.attacks.pgd import Loss, pgd
from smoothgate_lab.evaluation.attacks.square import square
from smoothgate_lab.evaluation.clean_certificates import CleanPictures
from smoothgate_lab.evaluation.evaluation_plan import Cell, Defence, EvaluationPlan
from smoothgate_lab.evaluation.json_lines import appending, whole_lines
from smoothgate_lab.evaluation.psm_evaluation import restricted
from smoothgate_lab.evaluation.running_service import RemoteModel
from smoothgate_lab.evaluation.threads import one_core_each
from smoothgate_lab.evaluation.victims import SmoothedVictim, Undefended, Victim
from smoothgate_lab.training_loop import seeded

# Noisy copies for each of the 20 gradients that AutoAttack averages at each of its steps.
_AUTO_ATTACK_DRAWS = 1
# Certification samples that the service draws. Its policy takes at least 45.
_SERVICE_CERTIFY = 64


@dataclass(frozen=True, slots=True)
class Line:
    """The result of one picture in one cell.

    Attributes:
        defence, attack, setting, question, norm, eps: the cell. `attack` is `clean` if there is none.
        index: number of the picture.
        seed: seed of all noise and starts of this line.
        given: answers by question.
        right: whether each answer is right, by question.
        hit: whether the attacked answer is the attacker's.
        cosine: cosine of the features behind these answers with those of the clean picture (FCS).
        l2, linf: norms of the perturbation.
        bound: FCSB by radius for a clean picture, FCSB at the perturbation's l2 norm for an attacked one, or
            None if nothing is certified.
        contradicted: whether the smoothed cosine is below the bound with confidence 1 - alpha. For a right
            certificate, this has a probability of at most 2 alpha.
    """

    defence: str
    attack: str
    setting: str
    question: str
    norm: str | None
    eps: float
    index: int
    seed: int
    given: dict[str, str]
    right: dict[str, bool]
    hit: bool
    cosine: float
    l2: float
    linf: float
    bound: dict[str, float] | None
    contradicted: bool


class Evaluation:
    """An evaluation in a folder.

    Args:
        plan: the plan of the evaluation.
        folder: gets `results.jsonl` and the attacked pictures.
        model: folder of the plan's model.
        psm: folder of the plan's PSM and calibration.
        scenes: at least as many as the plan's `n`. By default the demo model's.

    Raises:
        MalformedRequest: the plan attacks a question that the scenes do not have.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        folder: Path,
        model: Path | None = None,
        psm: Path | None = None,
        scenes: AttackedScenes | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        #: The address of the service for attacks in the setting `service`.
        self.url: str | None = None
        self._model = model or DEMO.model
        self._psm = psm or DEMO.psm
        self._encoders: dict[tuple[str, str, str], UnitEncoder] = {}
        self.base = self.encoder(Defence(name="none", parts="none"))
        self.scenes = scenes or attacked_digits(self.base.adapter, plan.n, plan.seed)
        for attack in plan.attacks:
            self.scenes.question(attack.question)
        self.clean = CleanPictures(plan, self.scenes.canvases, lambda d: self.victim(d, plan.n_select))
        self._own = threading.local()
        self._own.answerer = Answerer(self._model)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def answerer(self) -> Answerer:
        """The answerer of this thread. Threads cannot share a tokenizer."""
        answerer: Answerer = self._own.answerer
        return answerer

    def asks_service(self) -> bool:
        """Whether the remaining work needs `url`."""
        done = Counter(line["key"] for line in self.lines())
        asking = [c for c in self.plan.cells() if c.attack is not None and c.attack.setting == "service"]
        return any(done[cell.key] < self.plan.size(cell) for cell in asking)

    def made_of(self, cell: Cell) -> str:
        """A digest of everything that determines a cell's results. Others' lines and pictures are ignored."""
        shared = self.plan.model_dump(mode="json", exclude={"defences", "attacks"})
        lists = {"linf", "l2", "defences", "n"}
        attack = cell.attack.model_dump(mode="json", exclude=lists) if cell.attack else None
        encoder = self.encoder(cell.defence)
        parts = [shared, attack, cell.key, cell.defence.parts, self.base.digest, encoder.digest]
        if self.scenes.pictures:
            parts.append(self.scenes.pictures)
        return _digest(json.dumps(parts))[:16]

    def question(self, cell: Cell) -> Question:
        """The question whose answer is attacked. The attacker wants the twin's answer."""
        return self.scenes.question(cell.attack.question if cell.attack else None)

    def run(self, step: Callable[[Cell, int], None]) -> None:
        """Do the remaining work. `step` is called with a cell and a number of pictures that are done.

        Batches run in as many threads as there are cores, with one core each. The figures do not depend
        on the number of threads.
        """
        done = {(line["key"], line["index"]) for line in self.lines()}
        file = self.folder / "results.jsonl"
        with self.threads() as pool, appending(file) as add:
            work = []
            for cell in self.plan.cells():
                for numbers in self.batches(cell):
                    missing = any((cell.key, i) not in done for i in numbers)
                    work.append((cell, numbers, pool.submit(self._batch, cell, numbers) if missing else None))
            for cell, numbers, future in work:
                for line in future.result() if future else []:
                    if (cell.key, line.index) not in done:
                        add({"key": cell.key, "made_of": self.made_of(cell)} | asdict(line))
                step(cell, len(numbers))

    def threads(self) -> AbstractContextManager[ThreadPoolExecutor]:
        """A pool of threads of one core each, in which everything here may be called."""
        # transformers can load in only one thread at a time, so everything is loaded before the threads
        # start.
        for defence in self.plan.defences:
            self.encoder(defence)
        count = torch.get_num_threads()
        spare = SimpleQueue[Answerer]()
        for _ in range(count):
            spare.put(Answerer(self._model))

        def enter() -> None:
            self._own.answerer = spare.get()

        return one_core_each(count, enter)

    def lines(self) -> list[dict[str, Any]]:
        """The lines that are written for this plan, without an incomplete last line."""
        found = whole_lines(self.folder / "results.jsonl")
        cells = {cell.key: self.made_of(cell) for cell in self.plan.cells()}
        order = {key: place for place, key in enumerate(cells)}
        mine = [line for line in found if cells.get(line["key"]) == line["made_of"]]
        return sorted(mine, key=lambda line: (order[line["key"]], line["index"]))

    def pictures(self, cell: Cell, numbers: Sequence[int]) -> Tensor:
        """The pictures (B, 3, H, W) that a cell shows its defence: newly crafted, or read from their file."""
        x = self.scenes.canvases[list(numbers)]
        if cell.attack is None:
            return x
        source, file = self._crafted(cell, numbers)
        if file.exists():
            stored: Tensor = load_file(file)["pictures"]
            return stored
        victim = self.victim(source.defence, self.plan.draws)
        found = self._craft(source, victim, x, numbers)
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(f".{threading.get_ident()}")
        save_file({"pictures": found}, partial, {"crafted": source.key})
        partial.replace(file)
        return found

    def _crafted(self, cell: Cell, numbers: Sequence[int]) -> tuple[Cell, Path]:
        """The cell whose pictures an attacked cell shows, and the file that holds or will hold them."""
        source = cell
        if cell.attack is not None and cell.attack.setting == "transferred":
            source = Cell(Defence(name="undefended", parts="none"), cell.attack, cell.norm, cell.eps)
        name = f"{self.made_of(source)}-{numbers[0]:05d}-{numbers[-1]:05d}.safetensors"
        return source, self.folder / "pictures" / name

    def batches(self, cell: Cell) -> Iterator[range]:
        """The numbers of a cell's pictures, in the batches that they are attacked in."""
        size = self.plan.size(cell)
        for first in range(0, size, self.plan.batch):
            yield range(first, min(first + self.plan.batch, size))

    def gallery(self) -> list[tuple[str, bytes]]:
        """The first picture of every attacked cell of a smoothed defence that has been crafted, as PNG.

        It is shown clean, attacked, as a difference enlarged five times, attacked with noise, and purified.
        """
        found = []
        for cell in self.plan.cells():
            if cell.attack is None or cell.defence.parts != "both":
                continue
            numbers = next(self.batches(cell))
            if not self._crafted(cell, numbers)[1].exists():
                continue
            x, attacked = self.scenes.canvases[0], self.pictures(cell, numbers)[0]
            gen = seeded(self.plan.seed_of(cell, 0), 5)
            level = torch.tensor([self.plan.sigma])
            z = noisy(attacked, level, torch.randn((1, *attacked.shape), generator=gen))
            purifier = self.encoder(cell.defence).psm.purifier
            with torch.inference_mode():
                purified = purifier(z, level)
            row = torch.cat([x, attacked, 0.5 + 5 * (attacked - x), z[0], purified[0]], 2).clamp(0, 1)
            picture = to_picture(row)
            size = (2 * picture.width, 2 * picture.height)
            png = encode_png(picture.resize(size, Image.Resampling.NEAREST))
            found.append((f"{cell.key}: clean, attacked, difference x 5, with noise, purified", png))
        return found

    def _batch(self, cell: Cell, numbers: Sequence[int]) -> list[Line]:
        found = []
        pictures = self.pictures(cell, numbers)
        many = self.victim(cell.defence, self.plan.n_select)
        features, tokens = [], []
        for number, picture in zip(numbers, pictures, strict=True):
            gen = seeded(self.plan.seed_of(cell, number), 1)
            with torch.inference_mode():
                seen = many.see(picture[None], gen)
            features.append(seen.features[0])
            tokens.append(seen.tokens[0].cpu())
        questions, attacked = self.scenes.questions, self.question(cell)
        given = {q.name: answers(self.answerer, q.phrasings[0], torch.stack(tokens)) for q in questions}
        for row, number in enumerate(numbers):
            x, twin = self.scenes.facts[number], self.scenes.twin_facts[number]
            delta = pictures[row] - self.scenes.canvases[number]
            l2 = float(delta.norm())
            bound, contradicted = self.clean.held_against(cell, pictures[row], l2, number)
            line = Line(
                defence=cell.defence.name,
                attack=cell.attack.name if cell.attack else "clean",
                setting=cell.attack.setting if cell.attack else "clean",
                question=attacked.name,
                norm=cell.norm,
                eps=cell.eps,
                index=number,
                seed=self.plan.seed_of(cell, number),
                given={name: each[row] for name, each in given.items()},
                right={q.name: given[q.name][row] == q.answer(x) for q in questions},
                hit=given[attacked.name][row] == attacked.answer(twin),
                cosine=float(features[row] @ self.clean.feature(cell.defence, number)),
                l2=l2,
                linf=float(delta.abs().max()),
                bound=bound,
                contradicted=contradicted,
            )
            found.append(line)
        return found

    def _craft(self, cell: Cell, victim: Victim, x: Tensor, numbers: Sequence[int]) -> Tensor:
        attack, norm, plan = cell.attack, cell.norm, self.plan
        assert attack is not None and norm is not None  # noqa: S101, PT018
        gen = seeded(self.plan.seed_of(cell, numbers[0]), 0)
        if attack.setting == "service":
            return self._craft_on_service(cell, x, numbers, gen)
        if attack.objective == "auto-attack":
            return self._auto_attack(cell, x, numbers, gen)
        loss = self._loss(cell, victim, numbers, gen)
        if attack.objective == "square":
            return square(torch.inference_mode()(loss), x, cell.eps, plan.queries, gen)
        return pgd(loss, x, norm, cell.eps, plan.steps, gen, restarts=attack.restarts)

    def _craft_on_service(
        self, cell: Cell, x: Tensor, numbers: Sequence[int], gen: torch.Generator
    ) -> Tensor:
        assert cell.attack is not None and cell.norm is not None  # noqa: S101, PT018
        queries, seed = self.plan.queries, self.plan.seed_of(cell, numbers[0])
        question = self.question(cell)
        right = [question.answer(self.scenes.facts[i]) for i in numbers]
        labels = [self.scenes.labels[i] for i in numbers]
        choices = list(self.scenes.classes)
        with self._service(cell) as remote:

            def ask(z: Tensor) -> Tensor:
                return remote.probabilities(choices, z)

            classes = len(choices) + 1
            match cell.attack.objective:
                case "hop-skip-jump":
                    return hop_skip_jump(ask, x, labels, classes, cell.norm, cell.eps, queries, seed)
                case "art-square":
                    return art_square(ask, x, labels, classes, cell.eps, queries, seed)
                case _:
                    return square(lambda z: remote.score(right, z), x, cell.eps, queries, gen)

    def _auto_attack(self, cell: Cell, x: Tensor, numbers: Sequence[int], gen: torch.Generator) -> Tensor:
        """AutoAttack on the classes. It checks what it finds with as many noisy copies as are served."""
        assert cell.norm is not None  # noqa: S101
        attacked = self.victim(cell.defence, _AUTO_ATTACK_DRAWS)
        served = self.victim(cell.defence, self.plan.n_select)
        question, choices = self.question(cell).phrasings[0], list(self.scenes.classes)

        def logits(z: Tensor) -> Tensor:
            victim = attacked if torch.is_grad_enabled() else served
            return self.answerer.choice_logits(question, choices, victim.see(z, gen).tokens)

        labels = torch.tensor([self.scenes.labels[i] for i in numbers])
        seed = self.plan.seed_of(cell, numbers[0])
        return auto_attack(logits, x, labels, cell.norm, cell.eps, seed)

    def _loss(self, cell: Cell, victim: Victim, numbers: Sequence[int], gen: torch.Generator) -> Loss:
        assert cell.attack is not None  # noqa: S101
        asked = self.question(cell)
        question = asked.phrasings[0]
        target = self.scenes.twins[list(numbers)]
        match cell.attack.objective:
            case "answer":
                wanted = [asked.answer(self.scenes.twin_facts[i]) for i in numbers]
                return objectives.towards_answer(victim, self.answerer, question, wanted, gen)
            case "untargeted" | "square":
                right = [asked.answer(self.scenes.facts[i]) for i in numbers]
                return objectives.away_from_answer(victim, self.answerer, question, right, gen)
            case "feature":
                return objectives.towards_feature(victim, target, gen)
            case "crops":
                return objectives.towards_feature_by_crops(victim, target, gen)
            case "transport":
                width = self.base.adapter.hidden_size
                return objectives.towards_feature_by_transport(victim, target, width, gen)
            case other:
                raise ValueError(f"{other} has no loss")

    @contextmanager
    def _service(self, cell: Cell) -> Iterator[RemoteModel]:
        if self.url is None:
            raise SmoothgateError("An attack on the running service needs its address.", code="no_service")
        plan, psm = self.plan, self.encoder(cell.defence).psm_digest
        question = self.question(cell).phrasings[0]
        if cell.defence.parts == "none":
            with RemoteModel(self.url, question, {"mode": "off"}) as remote:
                yield remote
            return
        smoothing = {"n_select": plan.n_select, "n_certify": _SERVICE_CERTIFY, "sigma": plan.sigma}
        with RemoteModel(self.url, question, smoothing) as remote:
            if remote.psm_digest(self.scenes.canvases[0]) != psm:
                raise SmoothgateError(
                    f"The service at {self.url} does not run the plan's defence {cell.defence.name}.",
                    code="other_service",
                )
            yield remote

    def encoder(self, defence: Defence) -> UnitEncoder:
        """The encoder of a defence, loaded once."""
        model, psm = defence.model or str(self._model), str(defence.psm or self._psm)
        key = (model, psm, defence.parts)
        if key not in self._encoders:
            encoder = UnitEncoder.load(load(model, device="cpu", dtype=torch.float32), Path(psm))
            # A defence without a PSM does not depend on the PSM and its scores.
            used = "identity" if defence.parts == "none" else defence.parts
            self._encoders[key] = restricted(encoder, used)
        return self._encoders[key]

    def victim(self, defence: Defence, draws: int) -> Victim:
        """A defence as an attack sees it, with this many noisy copies of each picture."""
        encoder = self.encoder(defence)
        return (
            Undefended(encoder)
            if defence.parts == "none"
            else SmoothedVictim(encoder, self.plan.sigma, draws)
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
