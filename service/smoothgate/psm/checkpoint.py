"""A purifier and a mapper for one frozen encoder, and their files.

A PSM is a folder with `psm.json` (networks, sizes, model, training) and `psm.safetensors` (their weights
in half precision). Its digest covers everything except the training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smoothgate.errors import SmoothgateError
from smoothgate.extras import require
from smoothgate.psm.mapper import ResidualMapper, ResidualMapperConfig
from smoothgate.psm.purifier import LightUNet, LightUNetConfig

CONFIG_FILE = "psm.json"
WEIGHTS_FILE = "psm.safetensors"
_VERSION = 1


class Identity(nn.Module):
    """A purifier or mapper that changes nothing."""

    def forward(self, value: Tensor, sigma: Tensor) -> Tensor:
        """Return `value` itself."""
        return value


def _residual(config: dict[str, Any]) -> ResidualMapper:
    grid = config["grid"]
    return ResidualMapper(ResidualMapperConfig(**{**config, "grid": None if grid is None else tuple(grid)}))


def _diffusion(config: dict[str, Any]) -> nn.Module:
    require("diffusion", "A PSM with a diffusion purifier")
    from smoothgate.psm.diffusion_purifier import DiffusionConfig, DiffusionPurifier

    return DiffusionPurifier(DiffusionConfig(**config))


_PURIFIERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "identity": lambda config: Identity(),
    "light_unet": lambda config: LightUNet(LightUNetConfig(**config)),
    "diffusion": _diffusion,
}
_MAPPERS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "identity": lambda config: Identity(),
    "residual": _residual,
}
# By name: diffusers takes seconds to import, and most services do without.
_KINDS = {
    "Identity": "identity",
    "LightUNet": "light_unet",
    "DiffusionPurifier": "diffusion",
    "ResidualMapper": "residual",
}


class PSM(nn.Module):
    """Purifier and mapper.

    Args:
        purifier: (noisy canvases (B, 3, H, W), sigma (B,)) -> canvases.
        mapper: (tokens (B, T, D), sigma (B,)) -> tokens.
        model_digest: digest of the vision part that it was trained for. None fits any vision part.
        training: facts about the training, for information.
    """

    def __init__(
        self,
        purifier: nn.Module | None = None,
        mapper: nn.Module | None = None,
        *,
        model_digest: str | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.purifier = purifier or Identity()
        self.mapper = mapper or Identity()
        self.model_digest = model_digest
        self.training_facts = training or {}

    @property
    def is_identity(self) -> bool:
        """Whether both networks change nothing."""
        return isinstance(self.purifier, Identity) and isinstance(self.mapper, Identity)

    def describe(self) -> dict[str, Any]:
        """The content of `psm.json`, without the digest."""
        return {
            "version": _VERSION,
            "model_digest": self.model_digest,
            "purifier": _describe(self.purifier),
            "mapper": _describe(self.mapper),
            "training": self.training_facts,
        }

    @property
    def digest(self) -> str:
        """sha256 over networks and weights as they are stored, without the training."""
        facts = {key: value for key, value in self.describe().items() if key != "training"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, weight in sorted(self._stored().items()):
            digest.update(f"{name} {list(weight.shape)}\n".encode())
            digest.update(weight.numpy().data)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `psm.json` and `psm.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._stored(), folder / WEIGHTS_FILE)
        # safetensors lets only the owner read its file, and the service may run as another user.
        (folder / WEIGHTS_FILE).chmod(0o644)
        facts = self.describe() | {"digest": self.digest}
        (folder / CONFIG_FILE).write_text(json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> PSM:
        """Load a PSM in float32 on the CPU. A folder without `psm.json` gives the identity.

        Raises:
            SmoothgateError: code `unusable_psm`: it has another version or an unknown kind, or it is damaged.
                Code `missing_extra`: its purifier needs the extra `diffusion`.
        """
        path = folder / CONFIG_FILE
        if not path.is_file():
            return cls()
        try:
            facts = json.loads(path.read_text())
            if facts["version"] != _VERSION:
                raise ValueError(
                    f"it has version {facts['version']}, but this release reads version {_VERSION}"
                )
            psm = cls(
                _build(_PURIFIERS, facts["purifier"]),
                _build(_MAPPERS, facts["mapper"]),
                model_digest=facts["model_digest"],
                training=facts["training"],
            )
            psm.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS_FILE).items()})
            if psm.digest != facts["digest"]:
                raise ValueError("its weights do not match its digest")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise SmoothgateError(
                f"The PSM in {folder} cannot be used: {error}.", code="unusable_psm"
            ) from error
        return psm.eval().requires_grad_(False)

    def _stored(self) -> dict[str, Tensor]:
        weights = {k: p.detach().cpu().to(torch.float16).contiguous() for k, p in self.named_parameters()}
        others = {k: v.cpu().contiguous() for k, v in self.state_dict().items() if k not in weights}
        return weights | others


def _describe(network: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": _KINDS[type(network).__name__]}
    if not isinstance(network, Identity):
        facts |= json.loads(json.dumps(asdict(network.config)))  # type: ignore[call-overload]
    return facts


def _build(kinds: dict[str, Callable[[dict[str, Any]], nn.Module]], facts: dict[str, Any]) -> nn.Module:
    config = dict(facts)
    kind = config.pop("kind")
    if kind not in kinds:
        raise ValueError(f"it holds a {kind}, but this release knows only {', '.join(kinds)}")
    return kinds[kind](config)
