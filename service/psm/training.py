"""The training of a PSM: the paper's two stages, purifier then mapper, and a third of ours; the model's own
weights are frozen.

Every batch is a function of its number and the run's seed, so that a resumed run repeats an uninterrupted
one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import SmoothgateError
from service.psm import losses
from service.psm.adversarial import perturb
from service.psm.calibration import Calibration
from service.psm.checkpoint import PSM, Identity
from service.psm.encoder import UnitEncoder
from service.psm.mapper import ResidualMapper, ResidualMapperConfig
from service.training import HeldOut, Schedule, seeded, train
from service.vision import VisionAdapter

#: (number of a batch, pictures in it) -> canvases (n, 3, H, W) in [0, 1]; a function of its arguments alone.
Pictures = Callable[[int, int], Tensor]

_MUON = r"\.(first|second|to_qkv|out)\.weight$"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a PSM is trained.

    Attributes:
        sigmas: noise levels that half of the pictures get; the other half gets any up to `sigma_max`.
        sigma_max: largest noise level.
        batch: noisy canvases per batch: two noises each of half as many pictures.
        accumulate: batches per update of the weights.
        denoise_steps: of stage 1 before the encoder is asked: l_diff and l_mse alone.
        purifier_steps: of stage 1 with all its losses.
        mapper_steps: of stage 2.
        adversarial_steps: of stage 3, both networks together against feature-space PGD; our extension, 0
            leaves it out.
        lambda_rb, lambda_mse: weights of l_rb (lambda_1) and l_mse (lambda_2) beside l_diff.
        lambda_stats, lambda_id: weights of l_stats (lambda_3) and l_id (lambda_4) beside l_rb.
        lambda_consistency: weight of our own term, relative to l_rb; 0 is the paper's recipe.
        muon_lr, adam_lr: learning rates of the first stage; later ones take half of it.
        seed: of weights, pictures and noise.
        held_out_every, patience: early stop; `Schedule` and `HeldOut` say how.
    """

    sigmas: tuple[float, ...] = (0.25, 0.5, 0.75)
    sigma_max: float = 1.0
    batch: int = 64
    accumulate: int = 1
    denoise_steps: int = 3000
    purifier_steps: int = 5000
    mapper_steps: int = 1500
    adversarial_steps: int = 0
    lambda_rb: float = 4.0
    lambda_mse: float = 0.002
    lambda_stats: float = 0.05
    lambda_id: float = 0.05
    lambda_consistency: float = 0.5
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    seed: int = 1
    held_out_every: int = 500
    patience: int = 4


@dataclass(frozen=True, slots=True)
class _Noisy:
    """Two noises of each of n pictures: row i and row n + i of `x` (2 n, 3, H, W) are one picture."""

    x: Tensor
    z: Tensor
    sigma: Tensor

    @property
    def pictures(self) -> Tensor:
        """Each picture once (n, 3, H, W)."""
        return self.x[: len(self.x) // 2]


class Trainer:
    """Trains purifier and mapper for one model.

    Args:
        adapter: h; its weights are never touched.
        calibration: of h.
        pictures: training pictures.
        held_out: pictures for early stopping.
        recipe: how.
        save_every: updates between two checkpoints.
        folder: for checkpoints and logs; a run that finds its own goes on where it stopped.
    """

    def __init__(
        self,
        adapter: VisionAdapter,
        calibration: Calibration,
        pictures: Pictures,
        held_out: Pictures,
        recipe: Recipe,
        folder: Path,
        *,
        save_every: int = 250,
    ) -> None:
        self.adapter = adapter
        self.calibration = calibration
        self.pictures = pictures
        self.held_out = held_out
        self.recipe = recipe
        self.folder = folder
        self.save_every = save_every

    def run(self, purifier: nn.Module, *, mapper: bool = True) -> PSM:
        """All stages.

        Args:
            purifier: with first or published weights; one without weights is left as it is.
            mapper: whether to train one.

        Raises:
            SmoothgateError: code `other_recipe`: the folder holds a run with another recipe or purifier.
        """
        self._claim_folder(purifier)
        if self._has_weights(purifier):
            self._train_purifier(purifier)
        psm = PSM(purifier.eval().requires_grad_(False), Identity(), model_digest=self.adapter.digest)
        if mapper:
            psm.mapper = self._train_mapper(psm)
        if self.recipe.adversarial_steps and self._has_weights(psm):
            self._train_adversarially(psm)
        psm.training_facts = {"recipe": asdict(self.recipe)}
        return psm.eval().requires_grad_(False)

    def _claim_folder(self, purifier: nn.Module) -> None:
        facts = {"model": self.adapter.digest, "purifier": type(purifier).__name__, **asdict(self.recipe)}
        note, text = self.folder / "recipe.json", json.dumps(facts, indent=2) + "\n"
        if note.exists() and note.read_text() != text:
            raise SmoothgateError(
                f"{self.folder} holds a run with another model, purifier or recipe: resume it with the same "
                "options, or name another folder.",
                code="other_recipe",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(text)

    @staticmethod
    def _has_weights(network: nn.Module) -> bool:
        return any(True for _ in network.parameters())

    def _train_purifier(self, purifier: nn.Module) -> None:
        r = self.recipe
        purifier.to(self.adapter.device).train().requires_grad_(True)
        encoder = self._encoder(PSM(purifier, model_digest=self.adapter.digest))

        def denoise(batch: int) -> tuple[Tensor, dict[str, float]]:
            noisy = self._noisy(r.seed + 1, batch)
            with self._autocast():
                purified = purifier(noisy.z, noisy.sigma)
            diff = losses.diffusion(purified, noisy.x, noisy.sigma)
            squared = losses.mse(purified, noisy.x)
            return diff + r.lambda_mse * squared, {
                "diff": float(diff.detach()),
                "mse": float(squared.detach()),
            }

        def full(
            batch: int, seed: int = r.seed + 2, pictures: Pictures | None = None
        ) -> tuple[Tensor, dict[str, float]]:
            noisy = self._noisy(seed, batch, pictures)
            with torch.no_grad():
                clean = encoder.clean(noisy.pictures).repeat(2, 1)
            with self._autocast():
                purified = purifier(noisy.z, noisy.sigma)
                units = encoder.unit(self.adapter.tokens(purified).float())
            diff = losses.diffusion(purified, noisy.x, noisy.sigma)
            squared = losses.mse(purified, noisy.x)
            rb, same = losses.rb(units, clean), losses.consistency(units)
            total = diff + r.lambda_rb * (rb + r.lambda_consistency * same) + r.lambda_mse * squared
            return total, {
                "diff": float(diff.detach()),
                "rb": float(rb.detach()),
                "consistency": float(same.detach()),
            }

        def stage(name: str, loss: Any, schedule: Schedule, held_out: HeldOut | None) -> None:
            train(
                name,
                purifier,
                loss,
                schedule,
                self.folder,
                muon=_MUON,
                held_out=held_out,
                samples=r.batch,
                save_every=self.save_every,
            )

        if r.denoise_steps:
            schedule = Schedule(r.denoise_steps, r.muon_lr, r.adam_lr, decay=0.3, accumulate=r.accumulate)
            stage("denoise", denoise, schedule, None)
        if r.purifier_steps:
            schedule = Schedule(
                r.purifier_steps, r.muon_lr / 2, r.adam_lr / 2, decay=0.7, accumulate=r.accumulate
            )
            stage("purifier", full, schedule, self._early_stop(full))

    def _train_mapper(self, psm: PSM) -> nn.Module:
        r = self.recipe
        torch.manual_seed(r.seed + 3)
        config = ResidualMapperConfig(self.adapter.hidden_size, self.adapter.token_grid)
        mapper = ResidualMapper(config).to(self.adapter.device)
        with torch.no_grad():
            tokens = torch.cat([self._tokens(self.pictures(batch, r.batch)) for batch in range(8)]).flatten(
                0, 1
            )
            mapper.mean.copy_(tokens.mean(0))
            mapper.std.copy_(tokens.std(0).clamp(min=1e-6))
        psm.mapper = mapper
        encoder = self._encoder(psm)

        def full(
            batch: int, seed: int = r.seed + 4, pictures: Pictures | None = None
        ) -> tuple[Tensor, dict[str, float]]:
            noisy = self._noisy(seed, batch, pictures)
            with torch.no_grad():
                once = self._tokens(noisy.pictures)
                clean = once.repeat(2, 1, 1)
                with self._autocast():
                    tokens = self._tokens(psm.purifier(noisy.z, noisy.sigma))
            with self._autocast():
                mapped = mapper(tokens, noisy.sigma)
                kept = mapper(once, noisy.sigma[: len(once)] / 100)
            units = encoder.unit(mapped)
            rb, same = losses.rb(units, encoder.unit(clean)), losses.consistency(units)
            stats = losses.statistics(mapped, clean, mapper.std)
            same_clean = losses.identity(kept, once, mapper.std)
            total = rb + r.lambda_consistency * same + r.lambda_stats * stats + r.lambda_id * same_clean
            return total, {
                "rb": float(rb.detach()),
                "consistency": float(same.detach()),
                "stats": float(stats.detach()),
                "id": float(same_clean.detach()),
            }

        if r.mapper_steps:
            schedule = Schedule(r.mapper_steps, r.muon_lr, r.adam_lr / 2, decay=0.7, accumulate=r.accumulate)
            train(
                "mapper",
                mapper,
                full,
                schedule,
                self.folder,
                muon=_MUON,
                held_out=self._early_stop(full),
                samples=r.batch,
                save_every=self.save_every,
            )
        return mapper

    def _train_adversarially(self, psm: PSM) -> None:
        r = self.recipe
        psm.train().requires_grad_(True)
        encoder = self._encoder(psm)

        def full(
            batch: int, seed: int = r.seed + 5, pictures: Pictures | None = None
        ) -> tuple[Tensor, dict[str, float]]:
            noisy = self._noisy(seed, batch, pictures)
            with torch.no_grad():
                clean = encoder.clean(noisy.pictures).repeat(2, 1)
            gen = seeded(seed, batch).manual_seed(seed + batch)
            with torch.enable_grad(), self._autocast():
                attacked = perturb(encoder.units, noisy.x, noisy.sigma, clean, gen)
            with self._autocast():
                purified = psm.purifier(attacked + noisy.z - noisy.x, noisy.sigma)
                units = encoder.unit(psm.mapper(self.adapter.tokens(purified).float(), noisy.sigma))
            rb, squared = losses.rb(units, clean), losses.mse(purified, noisy.x)
            return r.lambda_rb * rb + r.lambda_mse * squared, {
                "rb": float(rb.detach()),
                "mse": float(squared.detach()),
            }

        schedule = Schedule(
            r.adversarial_steps, r.muon_lr / 4, r.adam_lr / 4, decay=0.7, accumulate=r.accumulate
        )
        train(
            "adversarial",
            psm,
            full,
            schedule,
            self.folder,
            muon=_MUON,
            held_out=self._early_stop(full),
            samples=r.batch,
            save_every=self.save_every,
        )

    def _encoder(self, psm: PSM) -> UnitEncoder:
        return UnitEncoder(self.adapter, self.calibration, psm)

    def _tokens(self, x: Tensor) -> Tensor:
        return self.adapter.tokens(x.to(self.adapter.device)).float()

    def _early_stop(self, loss: Any) -> HeldOut:
        """The same loss on held-out pictures, with noise that is the same at every measurement."""

        def measure() -> float:
            return sum(float(loss(batch, 0, self.held_out)[0]) for batch in range(4)) / 4

        return HeldOut(measure, self.recipe.held_out_every, self.recipe.patience)

    def _noisy(self, seed: int, batch: int, pictures: Pictures | None = None) -> _Noisy:
        r = self.recipe
        x = (pictures or self.pictures)(batch, r.batch // 2)
        gen = seeded(seed, batch)
        n = len(x)
        listed = torch.tensor(r.sigmas)[torch.randint(len(r.sigmas), (n,), generator=gen)]
        sigma = torch.where(
            torch.rand(n, generator=gen) < 0.5, listed, r.sigma_max * torch.rand(n, generator=gen)
        )
        x, sigma = x.repeat(2, 1, 1, 1), sigma.repeat(2)
        z = x + sigma.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=gen)
        device = self.adapter.device
        return _Noisy(x.to(device), z.to(device), sigma.to(device))

    def _autocast(self) -> torch.autocast:
        cuda = self.adapter.device.type == "cuda"
        return torch.autocast(self.adapter.device.type, torch.bfloat16, enabled=cuda)
