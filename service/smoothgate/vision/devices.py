"""The devices that an encoder may run on, by name."""

from __future__ import annotations

import torch

from smoothgate.errors import SmoothgateError


def devices_named(names: str) -> tuple[torch.device, ...]:
    """Devices that are there.

    Args:
        names: `cpu`, `cuda`, `cuda:N`, several of these separated by commas, or `auto`: CUDA where there is
            one.

    Raises:
        SmoothgateError: code `no_device`: a device is not there, or no device has this name.
    """
    if names == "auto":
        names = "cuda" if torch.cuda.is_available() else "cpu"
    return tuple(map(_device, names.split(",")))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SmoothgateError(f"{name} is no device: name cpu, cuda or cuda:N.", code="no_device") from error
    if device.type == "cuda":
        _require_cuda(device)
    return device


def _require_cuda(device: torch.device) -> None:
    if torch.version.cuda is None:
        raise SmoothgateError(
            f"{device} is not there: PyTorch {torch.__version__} is built without CUDA. "
            "`make serve ENGINE=cuda` installs one that has it.",
            code="no_device",
        )
    found = torch.cuda.device_count()
    if (device.index or 0) >= found:
        raise SmoothgateError(f"{device} is not there: PyTorch finds {found} CUDA devices.", code="no_device")
