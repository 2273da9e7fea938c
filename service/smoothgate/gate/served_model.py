"""Which model is served, by which name, on which devices and in which arithmetic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from smoothgate.bundled import bundled, checkpoint_of, psm_of
from smoothgate.errors import SmoothgateError
from smoothgate.vision import devices_named


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model of one process.

    Attributes:
        checkpoint: a folder or a Hugging Face id.
        name: towards clients, in certificates and in vLLM.
        psm: folder of purifier, mapper and calibration.
        devices: where the encoder runs, all of one type.
        dtype: arithmetic of the encoder and of vLLM.
    """

    checkpoint: str
    name: str
    psm: Path
    devices: tuple[torch.device, ...]
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        checkpoint: str | None,
        *,
        name: str | None,
        psm: Path | None,
        device: str,
        dtype: str,
        revision: str | None = None,
    ) -> ServedModel:
        """As the settings say: None and `auto` are resolved.

        Args:
            checkpoint: the name of a bundled model, a folder or an id; None: the demo model.
            name: None: the last part of the checkpoint's.
            psm: None: the one of a bundled model.
            device: `auto`, or names separated by commas.
            dtype: `auto`, or the name of a torch dtype.
            revision: commit, tag or branch of a checkpoint on Hugging Face, which is then downloaded; None:
                the latest when a file is first needed.

        Raises:
            SmoothgateError: code `no_calibration`: `psm` is missing for a model that is not bundled. Code
                `no_device`: a device is not there. Code `bad_revision`: a folder has no revisions, or the hub
                has no such one.
        """
        found = bundled(checkpoint)
        psm = psm_of(checkpoint, psm)
        if psm is None:
            raise SmoothgateError(
                "SMOOTHGATE_PSM is not set: make one with "
                "`smoothgate psm train --model ... --images DIR --output FOLDER`, or a calibration "
                "alone with `psm calibrate`, and name the folder.",
                code="no_calibration",
            )
        devices = devices_named(device)
        path = _at(checkpoint_of(checkpoint), revision)
        return cls(
            checkpoint=path,
            name=name or (Path(str(checkpoint)).name if found is None else found.served_name),
            psm=psm,
            devices=devices,
            dtype=_dtype(dtype, devices[0]),
        )

    @property
    def dtype_name(self) -> str:
        """As vLLM and certificates call it."""
        return str(self.dtype).removeprefix("torch.")


@cache
def checkpoint_digest(checkpoint: str) -> str:
    """SHA-256 over names and contents of the files of a checkpoint, computed once per process.

    Args:
        checkpoint: a folder, or a Hugging Face id that has been downloaded.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = Path(snapshot_download(checkpoint, local_files_only=True))
    sha = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                sha.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return sha.hexdigest()


def _at(checkpoint: str, revision: str | None) -> str:
    """A checkpoint, or the folder that holds it in a revision."""
    if revision is None:
        return checkpoint
    if Path(checkpoint).is_dir():
        raise SmoothgateError(
            f"SMOOTHGATE_MODEL_REVISION is {revision}, but SMOOTHGATE_MODEL is no id of Hugging Face's.",
            code="bad_revision",
        )
    try:
        return snapshot_download(checkpoint, revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise SmoothgateError(
            f"{checkpoint} cannot be had in the revision {revision}: {reason}", code="bad_revision"
        ) from error


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype
