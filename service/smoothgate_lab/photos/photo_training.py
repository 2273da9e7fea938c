"""The recipe of the photographs model: teacher, tower, language model, files."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from smoothgate_lab.chat_models.clip_encoder import ClipEncoder
from smoothgate_lab.chat_models.language_side import ChatEncoder, Served
from smoothgate_lab.chat_models.llava_files import assemble, llama_config, save
from smoothgate_lab.photos.photo_language import build_processor, build_tokenizer, language_loss
from smoothgate_lab.photos.photo_sets import CIFAR10, FASHION_MNIST
from smoothgate_lab.photos.photo_teacher import PhotoTeacher, teacher_loss
from smoothgate_lab.photos.photo_tower import PhotoTowerTrainer, photo_encoder, tower_loss
from smoothgate_lab.photos.photographs import Photographs
from smoothgate_lab.training_loop import HeldOut, Loss, Schedule, claim, seeded, train
from smoothgate_lab.training_loop import bfloat16 as in_bfloat16

# Batches of photographs that the served form is measured on.
_SERVED = 10

# Photographs that the teacher's first layer is set by.
_LOOKED_AT = 5000

#: Of each class, the training pictures that are held out: they are measured on during training.
HELD_OUT = 100


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and lengths of the stages.

    Attributes:
        teacher_width: number of channels of the teacher's first group.
        hidden, layers: width of the tower, and number of its layers.
        width, mlp, text_layers: width of the language model, of its MLPs, and number of its layers.
        teacher, tower, language: steps and learning rates.
        thinned_steps: number of the tower's first steps in which it sees half of the patches.
        batch: number of photographs in a batch.
        language_batch: number of photographs in a batch of the language model.
        measure_every: number of steps between two measurements on held-out pictures.
        save_every: number of steps between two checkpoints.
    """

    teacher_width: int
    hidden: int
    layers: int
    width: int
    mlp: int
    text_layers: int
    teacher: Schedule
    tower: Schedule
    language: Schedule
    thinned_steps: int
    batch: int = 256
    language_batch: int = 96
    measure_every: int = 200
    save_every: int = 100


#: By the name of the set of photographs.
RECIPES = {
    FASHION_MNIST.name: Recipe(
        teacher_width=32,
        hidden=128,
        layers=6,
        width=128,
        mlp=384,
        text_layers=4,
        teacher=Schedule(steps=1000, muon_lr=0.06, adam_lr=4e-3, decay=0.9),
        tower=Schedule(steps=1500, muon_lr=0.02, adam_lr=1e-3, decay=0.8),
        language=Schedule(steps=800, muon_lr=0.01, adam_lr=2e-3),
        thinned_steps=1200,
    ),
    CIFAR10.name: Recipe(
        teacher_width=64,
        hidden=256,
        layers=7,
        width=192,
        mlp=512,
        text_layers=4,
        teacher=Schedule(steps=3000, muon_lr=0.06, adam_lr=4e-3, decay=0.9),
        tower=Schedule(steps=9000, muon_lr=0.02, adam_lr=1e-3, warmup=200, decay=0.8),
        language=Schedule(steps=1200, muon_lr=0.01, adam_lr=2e-3),
        thinned_steps=6500,
    ),
}


class PhotoTraining:
    """One run: its stages, and what they share.

    Each stage has a folder below `folder` for its checkpoint and log. A stage that finds its own files there
    resumes where it stopped, and gives the same weights as one that was never interrupted.

    Args:
        photographs: the training pictures.
        folder: for checkpoints and logs.
        seed: seed of data and initial weights. Every stage derives its own seeds from it.
        bfloat16: whether forward and backward passes compute in bfloat16. It is twice as fast on CPUs with
            AVX-512-BF16, and slow on CPUs without it.
        recipe: sizes and lengths. None: those of the set in `RECIPES`.
    """

    def __init__(
        self,
        photographs: Photographs,
        folder: Path,
        seed: int,
        *,
        bfloat16: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        self.recipe = recipe or RECIPES[photographs.photo_set.name]
        held_out = min(HELD_OUT, len(photographs) // 100)
        self.held_out = photographs.of_each_class(0, held_out)
        self.photographs = photographs.of_each_class(held_out, len(photographs))
        self._folder = folder
        self._seed = seed
        self._bfloat16 = bfloat16
        self._facts = {"photographs": photographs.digest, "seed": seed, "bfloat16": bfloat16}

    def run(self, output: Path) -> None:
        """Train everything and write the checkpoint, in float16, into the folder `model` of a folder.

        Raises:
            SmoothgateError: code `other_recipe`: the folder for checkpoints holds a stage of another run.
        """
        encoder = self.tower(self.teacher())
        tokenizer = build_tokenizer(self.photographs.photo_set, self._seed)
        language = self.language(encoder, tokenizer)
        save(assemble(encoder, language, tokenizer).half(), build_processor(tokenizer), output / "model")

    def teacher(self) -> PhotoTeacher:
        """Stage 1: train the convolutional network. Returns it frozen."""
        recipe = self.recipe
        torch.manual_seed(self._seed)
        teacher = PhotoTeacher(recipe.teacher_width)
        teacher.look_at(self.photographs.batch(0, min(_LOOKED_AT, len(self.photographs)), self._seed))

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = self.photographs.batch(step, recipe.batch, self._seed)
            return teacher_loss(teacher, batch, seeded(self._seed + 1, step))

        facts = {"batch": recipe.batch, "width": recipe.teacher_width}
        self._stage(
            "teacher",
            teacher,
            loss,
            recipe.teacher,
            facts,
            ema=0.99,
            muon=r"net.*\.weight$",
            classifier=teacher,
        )
        return teacher.eval().requires_grad_(False)

    def tower(self, teacher: PhotoTeacher) -> ClipEncoder:
        """Stage 2: train tower and projector on what the teacher says. Returns them frozen."""
        recipe = self.recipe
        torch.manual_seed(self._seed + 2)
        encoder = photo_encoder(recipe.hidden, recipe.layers, recipe.width)
        trainer = PhotoTowerTrainer(encoder, teacher.map_width)

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = self.photographs.batch(step, recipe.batch, self._seed + 2)
            patches = encoder.tokens // 2 if step < recipe.thinned_steps else None
            return tower_loss(trainer, teacher, batch, seeded(self._seed + 3, step), patches)

        sizes = {"hidden": recipe.hidden, "layers": recipe.layers, "width": recipe.width}
        lengths = {"batch": recipe.batch, "thinned_steps": recipe.thinned_steps}
        facts = {**lengths, **sizes, "teacher": digest(teacher)}
        self._stage("tower", trainer, loss, recipe.tower, facts, classifier=trainer)
        return encoder.eval().requires_grad_(False)

    def language(self, encoder: ClipEncoder, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
        """Stage 3: train the language model on the frozen encoder's visual tokens. Returns it frozen."""
        recipe, seed = self.recipe, self._seed + 4
        chat = ChatEncoder(tokenizer, encoder.tokens)
        with torch.no_grad(), self._precision():
            known = [self.photographs.batch(n, recipe.language_batch, seed) for n in range(_SERVED)]
            served = Served.measure(encoder(batch.canvases).float() for batch in known)
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(tokenizer, recipe.width, recipe.mlp, recipe.text_layers))

        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = self.photographs.batch(step, recipe.language_batch, seed)
            return language_loss(model, encoder, served, chat, batch, seeded(seed + 1, step))

        sizes = {"mlp": recipe.mlp, "layers": recipe.text_layers}
        facts = {"batch": recipe.language_batch, **sizes, "encoder": digest(encoder)}
        self._stage("language", model, loss, recipe.language, facts, ema=0.995)
        frozen: LlamaForCausalLM = model.eval().requires_grad_(False)
        return frozen

    def _stage(
        self,
        name: str,
        module: nn.Module,
        loss: Loss,
        schedule: Schedule,
        facts: dict[str, Any],
        *,
        ema: float = 0.998,
        muon: str = r"layers.*\.weight$",
        classifier: nn.Module | None = None,
    ) -> None:
        """Train a stage in a folder of its own. A classifier's share of errors is measured on the way."""
        folder = self._folder / name
        claim(folder, {**self._facts, **facts, "schedule": asdict(schedule)})

        def in_precision(step: int) -> tuple[Tensor, dict[str, float]]:
            with self._precision():
                return loss(step)

        measured = None
        if classifier is not None:
            # The patience is never at an end: the best weights are kept, and the schedule is run to its end.
            measured = HeldOut(
                lambda: self._errors(classifier), self.recipe.measure_every, patience=schedule.steps
            )
        train(
            name,
            module,
            in_precision,
            schedule,
            folder,
            ema=ema,
            muon=muon,
            held_out=measured,
            save_every=self.recipe.save_every,
        )

    def _precision(self) -> AbstractContextManager[None]:
        return in_bfloat16("cpu", enabled=self._bfloat16)

    def _errors(self, classifier: nn.Module) -> float:
        with self._precision():
            return 1 - accuracy(classifier, self.held_out)


def digest(module: nn.Module) -> str:
    """SHA-256 of all weights of a module."""
    value = hashlib.sha256()
    for name, weight in module.state_dict().items():
        value.update(name.encode() + weight.contiguous().numpy().tobytes())
    return value.hexdigest()


@torch.no_grad()
def accuracy(classifier: nn.Module, photographs: Photographs, batch: int = 250) -> float:
    """Share of photographs that a classifier, canvases (N, 3, 32, 32) -> logits (N, 10), gets right."""
    was_training = classifier.training
    classifier.eval()
    chunks = [
        (photographs.pixels[at : at + batch], photographs.labels[at : at + batch])
        for at in range(0, len(photographs), batch)
    ]
    right = sum(int((classifier(p / 255).argmax(1) == labels).sum()) for p, labels in chunks)
    classifier.train(was_training)
    return right / len(photographs)
