"""Draws the noise of a certificate again from its seed, and makes the certificate again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smoothgate.certify.certificate import Certificate, NoiseRecord
from smoothgate.certify.certificate_v1 import AnyCertificate, CertificateV1, as_version_1
from smoothgate.certify.evidence import Evidence
from smoothgate.certify.statement import Target, Terms, evidence_for, reaches, state
from smoothgate.psm.unit_encoder import UnitEncoder
from smoothgate.sampling import noise
from smoothgate.sampling.certificate_parts import certified_image, certified_model, chance_at
from smoothgate.sampling.draw import numbered_noise
from smoothgate.sampling.splits import Splits, draw_splits
from smoothgate.vision import Canvas, DecodedImage

_BATCH = 32

#: Numbers of samples, and how many there are -> the same numbers, which are counted as they are drawn.
Watch = Callable[[Iterable[int], int], Iterable[int]]
# The bits of the served tokens are those of the machine that served them.
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What the recorded noise of a certificate gives on this machine.

    Attributes:
        encoder: of the model that the certificate should name.
        image, canvas: the picture.
        recorded: the certificate. Its seed, sigma, numbers of samples and wishes are taken over, and so is
            what nothing here determines: time, name, stop reason, `cached`, `degraded_from`, and what binds
            it to an answer.
        splits: the scores of the noise that it records.
    """

    encoder: UnitEncoder
    image: DecodedImage
    canvas: Canvas
    recorded: AnyCertificate
    splits: Splits

    @classmethod
    def of(
        cls,
        encoder: UnitEncoder,
        image: DecodedImage,
        canvas: Canvas,
        recorded: AnyCertificate,
        watch: Watch = lambda numbers, total: numbers,
    ) -> Replay:
        """Draw.

        Args:
            encoder, image, canvas, recorded: see above.
            watch: is given the numbers of the samples, in the order in which they are drawn.

        Raises:
            ValueError: the certificate's noise comes from an unknown generator.
            Unacceptable: the selection samples have no common direction.
        """
        source = noise.generator_named(recorded.noise.generator)
        streams = 1 if isinstance(recorded, CertificateV1) else recorded.noise.streams
        numbers = noise.sample_numbers(recorded.noise.n_select, streams)
        drawn = recorded.noise.n_select + recorded.noise.n_certify
        splits = draw_splits(
            encoder.units,
            canvas.x.to(encoder.adapter.device),
            recorded.noise.sigma,
            numbered_noise(source, int(recorded.noise.seed, 16), watch(numbers, drawn)),
            recorded.noise.n_select,
            recorded.noise.n_certify,
            batch=_BATCH,
            layout=canvas.layout,
        )
        return cls(encoder, image, canvas, recorded, splits)

    def certificate(self, raised: float = 0.0) -> AnyCertificate:
        """The whole certificate, made again. Only what `recorded` names above is taken over.

        Args:
            raised: is added to every certification score, within [0, 1]. Bounds rise with the scores, so this
                gives the most that scores within this distance can certify.

        Raises:
            ValueError: the certificate's terms are outside their ranges.
        """
        recorded = self.recorded
        made = Certificate.of(
            state(self._terms, self._evidence(raised)),
            stop_reason=recorded.stop_reason,
            time=recorded.time,
            image=certified_image(self.image, self.canvas),
            model=certified_model(self.encoder, recorded.model.name),
            noise=NoiseRecord.model_validate(recorded.noise.model_dump()),
            chance=chance_at(self.encoder, recorded.noise.sigma),
            served_tokens_sha256=_NO_DIGEST,
            space=self.encoder.adapter.space,
            cached=recorded.cached,
        )
        if isinstance(recorded, CertificateV1):
            figures = self.encoder.calibration.figures
            return as_version_1(made, figures.chance_mean, figures.chance_p95, figures.flip_point)
        return made.bound_as(recorded)

    def is_out_of_reach(self, raised: float) -> bool:
        """Whether scores of 1 until the end of the budget would miss the target; `raised` as above."""
        terms, recorded = self._terms, self.recorded.noise
        left = recorded.budget - recorded.n_certify
        established = self._evidence(raised).established_if_perfect(left)
        return terms.target is not None and not reaches(established, terms.target, terms.sigma)

    @property
    def _terms(self) -> Terms:
        recorded, wanted = self.recorded, self.recorded.target
        chance = chance_at(self.encoder, recorded.noise.sigma)
        return Terms(
            sigma=recorded.noise.sigma,
            alpha=recorded.alpha,
            eps=tuple(bound.eps for bound in recorded.bounds),
            cosine_threshold=recorded.radius.cosine_threshold,
            chance_cosine=None if chance is None else chance.p95,
            target=None if wanted is None else Target(wanted.cosine, wanted.eps),
            cosines=()
            if isinstance(recorded, CertificateV1)
            else tuple(each.cosine for each in recorded.angular),
        )

    def _evidence(self, raised: float) -> Evidence:
        splits, recorded = self.splits, self.recorded
        evidence = evidence_for(self._terms, splits.selection_scores, recorded.noise.budget)
        evidence.update([min(max(score + raised, 0.0), 1.0) for score in splits.certification_scores])
        return evidence
