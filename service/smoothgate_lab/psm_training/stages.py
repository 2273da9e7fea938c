"""The training of a PSM: the paper's two stages, purifier and mapper, and four of our own.

The model's own weights are frozen. Every batch depends only on its number and the run's seed, so a
resumed run gives the same weights as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoothgate.errors import SmoothgateError
from smoothgate.psm.calibration import Calibration
from smoothgate.psm.checkpoint import PSM, Identity
from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.vision import VisionAdapter
from smoothgate_lab.psm_training import losses
from smoothgate_lab.psm_training.attacks_through_noise import attack
from smoothgate_lab.psm_training.feature_attacks import perturb
from smoothgate_lab.psm_training.noise_pairs import noise_pairs
from smoothgate_lab.psm_training.vote_tuning import AskedPictures, VoteTuning
from smoothgate_lab.training_loop import HeldOut, Schedule, bfloat16, claim, seeded, train

#: (number of a batch, pictures in it) -> canvases (n, 3, H, W) in [0, 1]. It depends only on its arguments.
Pictures = Callable[[int, int], Tensor]

_HELD_OUT_BATCHES = 4
#: Names of the matrices and kernels of a PSM that Muon trains.
MUON = r"\.(first|second|to_qkv|out)\.weight$"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings that determine how a PSM is trained.

    Attributes:
        sigmas: noise levels of half of the pictures. The other half gets any level up to `sigma_max`.
        sigma_max: largest noise level.
        batch: number of noisy canvases per batch: two noises each of half as many pictures.
        accumulate: number of batches per update of the weights.
        denoise_steps: steps of stage 1 without the encoder, with only l_diff and l_mse.
        purifier_steps: steps of stage 1 with all its losses.
        mapper_steps: steps of stage 2.
        joint_steps: steps of stage 3: both networks together with the losses of both stages. Our extension.
        served_steps: steps of stage 4: as stage 3, but at little noise the mean of the samples, which is
            served, shall be right instead of each sample. Our extension.
        adversarial_steps: of `Trainer.train_adversarially`, as stage 4, on pictures under feature-space PGD;
            our extension.
        lambda_rb, lambda_mse: weights of l_rb (lambda_1) and l_mse (lambda_2), relative to l_diff.
        lambda_stats, lambda_id: weights of l_stats (lambda_3) and l_id (lambda_4), relative to l_rb.
        lambda_consistency: weight of our own term in stages 1 and 2, relative to l_rb. The paper has 0.
        lambda_joint_consistency: the same in stages 3 and 4 from sigma 0.5 on. It is less below.
        lambda_detail: weight of our own `losses.detail` in stage 4, relative to l_rb.
        muon_lr, adam_lr: largest learning rates. Stages after the first use a share of them.
        seed: seed of weights, pictures and noise.
        held_out_every, patience: early stopping, see `HeldOut`.
        bfloat16: whether to compute in bfloat16 on a CPU too. On CUDA it always is.
    """

    sigmas: tuple[float, ...] = (0.25, 0.5, 0.75)
    sigma_max: float = 1.0
    batch: int = 64
    accumulate: int = 1
    denoise_steps: int = 3000
    purifier_steps: int = 5000
    mapper_steps: int = 1500
    joint_steps: int = 3600
    served_steps: int = 3000
    adversarial_steps: int = 0
    lambda_rb: float = 4.0
    lambda_mse: float = 0.002
    lambda_stats: float = 0.05
    lambda_id: float = 0.05
    lambda_consistency: float = 0.5
    lambda_joint_consistency: float = 1.0
    lambda_detail: float = 1.0
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    seed: int = 1
    held_out_every: int = 500
    patience: int = 4
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class _Noisy:
    """Two noises of each of n pictures. Rows i and n + i of `x` (2 n, 3, H, W) are the same picture.

    `gen` is for what a loss draws in addition for this batch.
    """

    x: Tensor
    z: Tensor
    sigma: Tensor
    gen: torch.Generator

    @property
    def pictures(self) -> Tensor:
        """The pictures (n, 3, H, W)."""
        return self.x[: len(self.x) // 2]


#: A batch -> its loss, and the parts to show.
_Loss = Callable[[_Noisy], tuple[Tensor, dict[str, Tensor]]]
#: sigma (B,) -> the weight (B,) of a loss.
Weight = Callable[[Tensor], Tensor]


def joint_loss(
    recipe: Recipe,
    x: Tensor,
    purified: Tensor,
    units: Tensor,
    clean: Tensor,
    sigma: Tensor,
    fidelity: Weight,
    steadiness: Weight,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of purifier and mapper together, without l_id, and its parts to show.

    Rows i and B + i of all tensors are two noises of picture i.

    Args:
        recipe: gives the weights of the parts.
        x: (2 B, 3, H, W) clean canvases.
        purified: (2 B, 3, H, W) canvases from the purifier.
        units: (2 B, T * D) unit features.
        clean: (2 B, T * D) unit features without noise.
        sigma: (2 B,) noise levels.
        fidelity: weight of l_rb by noise level.
        steadiness: weight of our consistency term by noise level.
    """
    diff = losses.diffusion(purified, x, sigma)
    squared = losses.mse(purified, x)
    rb = losses.rb(units, clean, fidelity(sigma))
    same = losses.consistency(units, steadiness(sigma[: len(sigma) // 2]))
    total = diff + recipe.lambda_mse * squared
    total = total + recipe.lambda_rb * (rb + recipe.lambda_joint_consistency * same)
    return total, {"diff": diff, "rb": rb, "consistency": same}


class Trainer:
    """Trains purifier and mapper for one model.

    Args:
        adapter: h. Its weights do not change.
        calibration: the calibration of h.
        pictures: training pictures.
        held_out: pictures for early stopping.
        recipe: the settings of the training.
        save_every: number of updates between two checkpoints.
        folder: gets checkpoints and logs. A run that finds its own files there resumes where it stopped.
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
        """All stages but those of `train_adversarially` and `train_for_votes`.

        Args:
            purifier: with initial or published weights. One without weights does not change.
            mapper: whether to train a mapper.

        Raises:
            SmoothgateError: code `other_recipe`: the folder holds a run with another recipe or purifier.
        """
        r = self.recipe
        self._claim_folder({"purifier": type(purifier).__name__})
        if self._has_weights(purifier):
            self._train_purifier(purifier)
        psm = PSM(purifier.eval().requires_grad_(False), Identity(), model_digest=self.adapter.digest)
        if mapper:
            psm.mapper = self._train_mapper(psm)
        if self._has_weights(psm):
            joint = self._schedule(r.joint_steps, 0.4, 0.4, 0.9)
            self._train_jointly(psm, "joint", joint, losses.joint_fidelity, losses.joint_steadiness, 6)
            served = self._schedule(r.served_steps, 0.3, 0.3, 0.9)
            self._train_for_serving(psm, "served", served, 7)
        psm.training_facts = {"recipe": asdict(self.recipe)}
        return psm.eval().requires_grad_(False)

    def train_adversarially(self, psm: PSM) -> PSM:
        """Adversarial fine-tuning of a trained PSM, in place.

        Raises:
            SmoothgateError: code `other_recipe`, as for `run`; `nothing_to_train`: the PSM has no weights.
        """
        start = self._start(psm)
        self._claim_folder({"start": start})
        adversarial = self._schedule(self.recipe.adversarial_steps, 0.25, 0.25, 0.7)
        self._train_for_serving(psm, "adversarial", adversarial, 5, attacked=True)
        psm.training_facts = {"recipe": asdict(self.recipe), "tuned_from": start}
        return psm.eval().requires_grad_(False)

    def train_for_votes(self, psm: PSM, votes: VoteTuning) -> PSM:
        """Fine-tuning of a trained PSM for votes, in place.

        The losses are those of stage 4 without `losses.detail`, and those of `vote_tuning`.

        Raises:
            SmoothgateError: as for `train_adversarially`.
        """
        start = self._start(psm)
        facts = asdict(votes.recipe)
        self._claim_folder({"start": start, "votes": facts})
        self._train_jointly(
            psm,
            "votes",
            self._schedule(votes.recipe.steps, 0.05, 0.05, 0.6),
            losses.served_fidelity,
            losses.served_steadiness,
            8,
            attacked=votes.recipe.attacked,
            votes=votes,
        )
        psm.training_facts |= {"tuned_for_votes": {"from": start, **facts, "recipe": asdict(self.recipe)}}
        return psm.eval().requires_grad_(False)

    def _start(self, psm: PSM) -> str:
        """The digest of a PSM that is tuned."""
        if not self._has_weights(psm):
            raise SmoothgateError("This PSM has no weights that could be tuned.", code="nothing_to_train")
        return psm.digest

    def _claim_folder(self, start: dict[str, Any]) -> None:
        claim(self.folder, {"model": self.adapter.digest, **start, **asdict(self.recipe)})

    @staticmethod
    def _has_weights(network: nn.Module) -> bool:
        return any(True for _ in network.parameters())

    def _train_purifier(self, purifier: nn.Module) -> None:
        r = self.recipe
        purifier.to(self.adapter.device).train().requires_grad_(True)
        encoder = self._encoder(PSM(purifier, model_digest=self.adapter.digest))

        def denoise(noisy: _Noisy) -> tuple[Tensor, dict[str, Tensor]]:
            with self._autocast():
                purified = encoder.purified(noisy.z, noisy.sigma)
            diff = losses.diffusion(purified, noisy.x, noisy.sigma)
            squared = losses.mse(purified, noisy.x)
            return diff + r.lambda_mse * squared, {"diff": diff, "mse": squared}

        def full(noisy: _Noisy) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                clean = encoder.clean(noisy.pictures).repeat(2, 1)
            with self._autocast():
                purified = encoder.purified(noisy.z, noisy.sigma)
                units = encoder.unit(self.adapter.tokens(purified).float())
            diff = losses.diffusion(purified, noisy.x, noisy.sigma)
            squared = losses.mse(purified, noisy.x)
            rb, same = losses.rb(units, clean), losses.consistency(units)
            total = diff + r.lambda_rb * (rb + r.lambda_consistency * same) + r.lambda_mse * squared
            return total, {"diff": diff, "rb": rb, "consistency": same}

        self._stage("denoise", purifier, denoise, self._schedule(r.denoise_steps, 1.0, 1.0, 0.3), r.seed + 1)
        self._stage("purifier", purifier, full, self._schedule(r.purifier_steps, 0.5, 0.5, 0.7), r.seed + 2)

    def _train_mapper(self, psm: PSM) -> nn.Module:
        r = self.recipe
        torch.manual_seed(r.seed + 3)
        config = ResidualMapperConfig(self.adapter.hidden_size, self.adapter.token_grid)
        mapper = ResidualMapper(config).to(self.adapter.device)
        with torch.no_grad():
            some = [self._tokens(self.pictures(batch, r.batch)).flatten(0, 1) for batch in range(8)]
            mapper.mean.copy_(torch.cat(some).mean(0))
            mapper.std.copy_(torch.cat(some).std(0).clamp(min=1e-6))
        psm.mapper = mapper
        encoder = self._encoder(psm)

        def full(noisy: _Noisy) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                once = self._tokens(noisy.pictures)
                clean = once.repeat(2, 1, 1)
                with self._autocast():
                    tokens = self._tokens(encoder.purified(noisy.z, noisy.sigma))
            with self._autocast():
                mapped = mapper(tokens, noisy.sigma)
                kept = mapper(once, noisy.sigma[: len(once)] / 100)
            units = encoder.unit(mapped)
            rb, same = losses.rb(units, encoder.unit(clean)), losses.consistency(units)
            stats = losses.statistics(mapped, clean, mapper.std)
            identity = losses.identity(kept, once, mapper.std)
            total = rb + r.lambda_consistency * same + r.lambda_stats * stats + r.lambda_id * identity
            return total, {"rb": rb, "consistency": same, "stats": stats, "id": identity}

        self._stage("mapper", mapper, full, self._schedule(r.mapper_steps, 1.0, 0.5, 0.7), r.seed + 4)
        return mapper

    def _train_for_serving(
        self, psm: PSM, name: str, schedule: Schedule, seed: int, *, attacked: bool = False
    ) -> None:
        fidelity, steadiness = losses.served_fidelity, losses.served_steadiness
        detail = self.recipe.lambda_detail
        self._train_jointly(psm, name, schedule, fidelity, steadiness, seed, detail, attacked=attacked)

    def _train_jointly(
        self,
        psm: PSM,
        name: str,
        schedule: Schedule,
        fidelity: Weight,
        steadiness: Weight,
        seed: int,
        lambda_detail: float = 0.0,
        *,
        attacked: bool = False,
        votes: VoteTuning | None = None,
    ) -> None:
        r = self.recipe
        psm.train().requires_grad_(True)
        encoder = self._encoder(psm)
        whitening = self._whitening(encoder) if lambda_detail else None

        def full(noisy: _Noisy) -> tuple[Tensor, dict[str, Tensor]]:
            with torch.no_grad():
                once = self._tokens(noisy.pictures)
                clean = encoder.unit(once).repeat(2, 1)
            asked = None if votes is None else votes.ask(encoder, noisy.pictures, once, noisy.gen)
            z = noisy.z
            if attacked:
                z = z + self._perturbations(encoder, noisy, clean[: len(once)], asked).repeat(2, 1, 1, 1)
            with self._autocast():
                purified = encoder.purified(z, noisy.sigma)
                units = encoder.unit(psm.mapper(self._tokens(purified), noisy.sigma))
                kept = psm.mapper(once, noisy.sigma[: len(once)] / 100)
            total, parts = joint_loss(r, noisy.x, purified, units, clean, noisy.sigma, fidelity, steadiness)
            if whitening is not None:
                faint = losses.detail_weight(noisy.sigma[: len(once)])
                detail = losses.detail(units, clean, whitening, faint)
                total = total + r.lambda_rb * lambda_detail * detail
            if isinstance(psm.mapper, ResidualMapper):
                total = total + r.lambda_rb * r.lambda_id * losses.identity(kept, once, psm.mapper.std)
            if asked is not None:
                with self._autocast():
                    wrong, figures = asked.loss(units)
                total, parts = total + wrong, parts | figures
            return total, parts

        self._stage(name, psm, full, schedule, r.seed + seed)

    def _perturbations(
        self, encoder: UnitEncoder, noisy: _Noisy, clean: Tensor, asked: AskedPictures | None
    ) -> Tensor:
        """Perturbations (n, 3, H, W), one per picture for both of its noises.

        They are on answers where there are some, else on features.
        """
        levels = noisy.sigma[: len(clean)]
        with torch.enable_grad(), self._autocast():
            if asked is not None:
                found = attack(asked.gain, noisy.pictures, levels, noisy.gen)
            else:
                found = perturb(encoder.units, noisy.pictures, levels, clean, noisy.gen)
        return found - noisy.pictures

    @torch.no_grad()
    def _whitening(self, encoder: UnitEncoder) -> Tensor:
        some = (encoder.clean(self.pictures(i, self.recipe.batch).to(self.adapter.device)) for i in range(8))
        return losses.whitening(some, self.adapter.hidden_size)

    def _schedule(self, steps: int, muon: float, adam: float, decay: float) -> Schedule:
        r = self.recipe
        return Schedule(steps, muon * r.muon_lr, adam * r.adam_lr, decay=decay, accumulate=r.accumulate)

    def _stage(self, name: str, module: nn.Module, loss: _Loss, schedule: Schedule, seed: int) -> None:
        """Train a module. Held-out pictures get the same noise at every measurement."""
        if not schedule.steps:
            return
        r = self.recipe

        def step(batch: int) -> tuple[Tensor, dict[str, float]]:
            total, parts = loss(self._noisy(seed, batch, self.pictures))
            return total, {key: float(value.detach()) for key, value in parts.items()}

        def measure() -> float:
            batches = [self._noisy(0, batch, self.held_out) for batch in range(_HELD_OUT_BATCHES)]
            return sum(float(loss(noisy)[0]) for noisy in batches) / len(batches)

        train(
            name,
            module,
            step,
            schedule,
            self.folder,
            muon=MUON,
            held_out=HeldOut(measure, r.held_out_every, r.patience),
            samples=r.batch,
            save_every=self.save_every,
        )

    def _encoder(self, psm: PSM) -> UnitEncoder:
        return UnitEncoder(self.adapter, self.calibration, psm)

    def _tokens(self, x: Tensor) -> Tensor:
        return self.adapter.tokens(x.to(self.adapter.device)).float()

    def _noisy(self, seed: int, batch: int, pictures: Pictures) -> _Noisy:
        r = self.recipe
        x = pictures(batch, r.batch // 2)
        gen = seeded(seed, batch)
        n = len(x)
        listed = torch.tensor(r.sigmas)[torch.randint(len(r.sigmas), (n,), generator=gen)]
        is_listed = torch.rand(n, generator=gen) < 0.5
        sigma = torch.where(is_listed, listed, r.sigma_max * torch.rand(n, generator=gen))
        z, levels = noise_pairs(x, sigma, gen)
        device = self.adapter.device
        return _Noisy(x.repeat(2, 1, 1, 1).to(device), z.to(device), levels.to(device), gen)

    def _autocast(self) -> AbstractContextManager[None]:
        device = self.adapter.device.type
        return bfloat16(device, enabled=device == "cuda" or self.recipe.bfloat16)
