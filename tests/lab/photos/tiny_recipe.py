"""A recipe of the photographs model that takes seconds, and teaches it little."""

from smoothgate_lab.photos.photo_training import Recipe
from smoothgate_lab.training_loop import Schedule

SHORT = Schedule(steps=24, muon_lr=0.04, adam_lr=1e-2, warmup=2)
RECIPE = Recipe(
    teacher_width=4,
    hidden=32,
    layers=1,
    width=32,
    mlp=32,
    text_layers=1,
    teacher=SHORT,
    tower=Schedule(steps=8, muon_lr=0.02, adam_lr=2e-3, warmup=2),
    language=Schedule(steps=4, muon_lr=0.02, adam_lr=2e-3, warmup=2),
    thinned_steps=5,
    batch=32,
    language_batch=8,
    measure_every=8,
    save_every=3,
)
