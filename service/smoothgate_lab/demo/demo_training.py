"""The whole recipe of the demo model: teacher, tower, language model, files, calibration."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import LlamaForCausalLM

from smoothgate.vision import load
from smoothgate_lab.demo.demo_checkpoint import assemble, build_tokenizer, save, text_config
from smoothgate_lab.demo.language_model import ChatEncoder, Mix, Served, language_loss
from smoothgate_lab.demo.scene_stream import calibrate_scenes
from smoothgate_lab.demo.scenes import load_digits
from smoothgate_lab.demo.tower import (
    SMALL_CANVAS,
    Encoder,
    Teacher,
    TowerTrainer,
    teacher_loss,
    tower_loss,
    training_batch,
)
from smoothgate_lab.training_loop import Schedule, seeded, train

TEACHER = Schedule(steps=900, muon_lr=0.0, adam_lr=3e-3)
SMALL_TOWER = Schedule(steps=1600, muon_lr=0.02, adam_lr=2e-3, decay=0.1)
TOWER = Schedule(steps=1800, muon_lr=0.01, adam_lr=1e-3, decay=0.6)
LANGUAGE = Schedule(steps=840, muon_lr=0.01, adam_lr=2e-3)


PAIRS = Schedule(steps=300, muon_lr=0.005, adam_lr=1e-3, warmup=20, decay=0.8)

ALL_SORTS = Mix(counts=(0.06, 0.54, 0.4), repeated=0.15, equal=0.0)
# The stage before sees equal digits in two different pictures in one chat of 25, and calls them different.
MOSTLY_PAIRS = Mix(counts=(0.06, 0.24, 0.7), repeated=0.05, equal=0.3)


def train_teacher(seed: int, folder: Path) -> Teacher:
    """Stage 1: the net that reads ink masks, frozen."""
    digits = load_digits("train")
    torch.manual_seed(seed)
    teacher = Teacher()

    train(
        "teacher",
        teacher,
        lambda step: teacher_loss(teacher, training_batch(digits, 128, seeded(seed, step))[0]),
        TEACHER,
        folder,
        ema=0.99,
    )
    return teacher.eval().requires_grad_(False)


def train_tower(seed: int, folder: Path, teacher: Teacher) -> Encoder:
    """Stages 2 and 3: vision tower and projector, on a small canvas (half the tokens, learns faster), then on
    the full one.
    """
    digits = load_digits("train")
    torch.manual_seed(seed + 1)

    def stage(name: str, model: TowerTrainer, seed: int, schedule: Schedule) -> None:
        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            return tower_loss(model, teacher, *training_batch(digits, 96, seeded(seed, step)))

        train(name, model, loss, schedule, folder)

    small = TowerTrainer(SMALL_CANVAS)
    stage("tower-small", small, seed + 1, SMALL_TOWER)
    model = small.grow()
    stage("tower", model, seed + 2, TOWER)
    return model.encoder.eval().requires_grad_(False)


def train_language(seed: int, folder: Path, encoder: Encoder) -> LlamaForCausalLM:
    """Stages 4 and 5: the language model, reading the frozen encoder; then more of what is hard for it."""
    digits = load_digits("train")
    tokenizer = build_tokenizer(seed)
    chat = ChatEncoder(tokenizer)
    served = Served.measure(encoder, digits, torch.Generator().manual_seed(seed + 4))
    torch.manual_seed(seed + 3)
    model = LlamaForCausalLM(text_config(tokenizer))

    def stage(name: str, seed: int, schedule: Schedule, mix: Mix) -> None:
        def loss(step: int) -> tuple[Tensor, dict[str, float]]:
            return language_loss(model, encoder, served, chat, digits, seeded(seed, step), mix)

        train(name, model, loss, schedule, folder, ema=0.995)

    stage("language", seed + 3, LANGUAGE, ALL_SORTS)
    stage("language-pairs", seed + 6, PAIRS, MOSTLY_PAIRS)
    return model.eval()


def run(output: Path, work: Path, seed: int, console: Console) -> None:
    """Train everything and write the checkpoint.

    Args:
        output: folder that gets `model` (Hugging Face files) and `psm` (calibration).
        work: folder for checkpoints and logs; a run that finds its own files there goes on where it stopped.
        seed: of data and initial weights; every stage derives its own from it.
        console: where progress is said.
    """
    teacher = train_teacher(seed, work)
    encoder = train_tower(seed, work, teacher)
    language = train_language(seed, work, encoder)
    tokenizer = build_tokenizer(seed)
    save(assemble(encoder, language, tokenizer), tokenizer, output / "model")
    adapter = load(str(output / "model"), device="cpu", dtype=torch.float32)
    calibrate_scenes(adapter, seed + 5).save(output / "psm")
    console.print(f"Wrote {output}/model and {output}/psm")
