"""The recipe of the demo model: teacher, tower, language model, files, calibration."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import LlamaForCausalLM

from smoothgate.vision import load
from smoothgate_lab.chat_models.clip_encoder import ClipEncoder
from smoothgate_lab.chat_models.language_side import ChatEncoder
from smoothgate_lab.chat_models.llava_files import assemble, save
from smoothgate_lab.demo.demo_checkpoint import build_processor, build_tokenizer, text_config
from smoothgate_lab.demo.language_model import Mix, language_loss, measure_served
from smoothgate_lab.demo.scene_stream import calibrate_scenes
from smoothgate_lab.demo.scenes import load_digits
from smoothgate_lab.demo.tower import (
    SMALL_CANVAS,
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
# After the stage before, the model calls equal digits in two pictures different: it sees them in one chat
# of 25.
MOSTLY_PAIRS = Mix(counts=(0.06, 0.24, 0.7), repeated=0.05, equal=0.3)


def train_teacher(seed: int, folder: Path) -> Teacher:
    """Stage 1: train the network that reads ink masks. Returns it frozen."""
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


def train_tower(seed: int, folder: Path, teacher: Teacher) -> ClipEncoder:
    """Stages 2 and 3: train vision tower and projector, first on a small canvas, then on the full one.

    The small canvas has half the tokens, so the model learns faster on it.
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


def train_language(seed: int, folder: Path, encoder: ClipEncoder) -> LlamaForCausalLM:
    """Stages 4 and 5: train the language model on the frozen encoder, then on more of what is hard for it."""
    digits = load_digits("train")
    tokenizer = build_tokenizer(seed)
    chat = ChatEncoder(tokenizer, encoder.tokens)
    served = measure_served(encoder, digits, torch.Generator().manual_seed(seed + 4))
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
        work: folder for checkpoints and logs. A run that finds its own files there resumes where it stopped.
        seed: seed of data and initial weights. Every stage derives its own seed from it.
        console: shows the progress.
    """
    teacher = train_teacher(seed, work)
    encoder = train_tower(seed, work, teacher)
    language = train_language(seed, work, encoder)
    tokenizer = build_tokenizer(seed)
    save(assemble(encoder, language, tokenizer), build_processor(tokenizer), output / "model")
    adapter = load(str(output / "model"), device="cpu", dtype=torch.float32)
    calibrate_scenes(adapter, seed + 5).save(output / "psm")
    console.print(f"Wrote {output}/model and {output}/psm")
