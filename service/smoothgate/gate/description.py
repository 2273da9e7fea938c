"""What a service says of itself: version, digests, what holds where a request names nothing, and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from smoothgate import __version__, metrics
from smoothgate.gate.policy import OperatorPolicy
from smoothgate.gate.supervised_smoother import SupervisedSmoother

Json = dict[str, Any]


class Description:
    """Describes a service once its encoder is loaded.

    Args:
        smoother: has the digests.
        policy: has the default terms.
        limits: of a request, by name.
        language_model_digest: may take long the first time; None: there is no language model.
    """

    def __init__(
        self,
        smoother: SupervisedSmoother,
        policy: OperatorPolicy,
        limits: Mapping[str, int | None],
        language_model_digest: Callable[[], str | None],
    ) -> None:
        self._smoother = smoother
        self._policy = policy
        self._limits = limits
        self._language_model_digest = language_model_digest

    def version(self) -> Json:
        """The version of the service, and the digests that its certificates carry."""
        model = self._smoother.loaded.model
        return {
            "version": __version__,
            "model": model.name,
            "digests": {
                "model": model.digest,
                "psm": model.psm_digest,
                "language_model": self._language_model_digest(),
            },
        }

    def details(self) -> Json:
        """Version and digests, the default terms of a request, and its limits."""
        policy = self._policy
        target = policy.target
        terms = {
            "certify": policy.certify,
            "sigma": policy.sigma,
            "n_select": policy.n_select,
            "n_certify": policy.n_certify,
            "alpha": policy.alpha,
            "eps": policy.eps,
            "cosines": policy.cosines,
            "cosine_threshold": policy.cosine_threshold,
            "target": None if target is None else {"cosine": target.cosine, "eps": target.eps},
            "radius": policy.radius,
            "policy": "enforce" if policy.enforce else "report",
        }
        own = {
            "sigma_min": policy.sigma_min,
            "sigma_max": policy.sigma_max,
            "max_samples": policy.max_samples,
        }
        return self.version() | {"defaults": terms, "limits": own | dict(self._limits)}

    def export(self) -> None:
        """Show version and digests in the metrics."""
        said = self.version()
        digests = {f"{name}_digest": value or "" for name, value in said["digests"].items()}
        metrics.BUILD.info({"version": said["version"], "model": said["model"], **digests})
