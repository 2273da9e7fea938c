"""Draws the noise of a certificate again from its seed, and makes the certificate again."""

from __future__ import annotations

from dataclasses import dataclass

from smoothgate.certify.certificate import Certificate
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.layer_cake import choose_transforms
from smoothgate.certify.statement import Target, Terms, reaches, state
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.certificate_parts import certified_image, certified_model, chance
from smoothgate.sampling.draw import numbered_noise
from smoothgate.sampling.splits import Splits, draw_splits
from smoothgate.vision import Canvas, DecodedImage

_BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What the recorded noise of a certificate gives on this machine.

    Attributes:
        encoder: of the model that the certificate should name.
        image, canvas: the picture.
        recorded: the certificate. Its seed, sigma, numbers of samples and wishes are taken over, and so is
            what nothing here determines: time, name, stop reason, `cached` and `degraded_from`.
        splits: the scores of the noise that it records.
    """

    encoder: UnitEncoder
    image: DecodedImage
    canvas: Canvas
    recorded: Certificate
    splits: Splits

    @classmethod
    def of(cls, encoder: UnitEncoder, image: DecodedImage, canvas: Canvas, recorded: Certificate) -> Replay:
        """Draw.

        Raises:
            ValueError: the certificate's noise comes from an unknown generator.
            Unacceptable: the selection samples have no common direction.
        """
        source = noise.generator_named(recorded.noise.generator)
        splits = draw_splits(
            encoder.units,
            canvas.x.to(encoder.adapter.device),
            recorded.noise.sigma,
            numbered_noise(source, int(recorded.noise.seed, 16)),
            recorded.noise.n_select,
            recorded.noise.n_certify,
            batch=_BATCH,
            layout=canvas.layout,
        )
        return cls(encoder, image, canvas, recorded, splits)

    def certificate(self, raised: float = 0.0) -> Certificate:
        """The whole certificate, made again. Only what `recorded` names above is taken over.

        Args:
            raised: is added to every certification score, within [0, 1]. Bounds rise with the scores, so this
                gives the most that scores within this distance can certify.

        Raises:
            ValueError: the certificate's terms are outside their ranges.
        """
        recorded = self.recorded
        return Certificate.of(
            state(self._terms, self._evidence(raised)),
            stop_reason=recorded.stop_reason,
            time=recorded.time,
            image=certified_image(self.image, self.canvas),
            model=certified_model(self.encoder, recorded.model.name),
            noise=recorded.noise,
            chance=chance(self.encoder),
            space=self.encoder.adapter.space,
            flip_point=self.encoder.calibration.figures.flip_point,
            cached=recorded.cached,
        )

    def is_out_of_reach(self, raised: float) -> bool:
        """Whether scores of 1 until the end of the budget would miss the target; `raised` as above."""
        terms, recorded = self._terms, self.recorded.noise
        left = recorded.budget - recorded.n_certify
        moments = self._evidence(raised).moments_if_perfect(left)
        return terms.target is not None and not reaches(moments, terms.target, terms.sigma)

    @property
    def _terms(self) -> Terms:
        recorded, wanted = self.recorded, self.recorded.target
        return Terms(
            sigma=recorded.noise.sigma,
            alpha=recorded.alpha,
            eps=tuple(bound.eps for bound in recorded.bounds),
            cosine_threshold=recorded.radius.cosine_threshold,
            chance_cosine=chance(self.encoder).p95,
            target=None if wanted is None else Target(wanted.cosine, wanted.eps),
        )

    def _evidence(self, raised: float) -> Evidence:
        splits, recorded = self.splits, self.recorded
        transforms = choose_transforms(splits.selection_scores, recorded.noise.budget, recorded.alpha)
        evidence = Evidence(transforms)
        evidence.update([min(max(score + raised, 0.0), 1.0) for score in splits.certification_scores])
        return evidence
