"""Which checkpoint is served: a revision of the hub's becomes a folder, and nothing else is taken for one."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from smoothgate.bundled import DEMO
from smoothgate.errors import SmoothgateError
from smoothgate.gate.served_model import ServedModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _served(checkpoint: str | None, revision: str | None, psm: Path | None) -> ServedModel:
    return ServedModel.of(checkpoint, name=None, psm=psm, device="cpu", dtype="float32", revision=revision)


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as the hub's client keeps it, in one revision; without a network."""
    folder = tmp_path / f"models--org--model/snapshots/{COMMIT}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_revision_is_a_folder_that_encoder_and_vllm_share(downloaded: Path, tmp_path: Path) -> None:
    served = _served("org/model", COMMIT, tmp_path)
    assert (Path(served.checkpoint), served.name) == (downloaded, "model")
    assert _served("org/model", None, tmp_path).checkpoint == "org/model"


def test_a_bundled_model_is_served_by_its_name(tmp_path: Path) -> None:
    served = _served("demo", None, None)
    assert served == _served(None, None, None)
    assert (Path(served.checkpoint), served.psm, served.name) == (DEMO.model, DEMO.psm, "smoothgate-demo")
    assert _served("demo", None, tmp_path).psm == tmp_path
    assert _served("./demo", None, tmp_path).checkpoint == "./demo", "a folder"


@pytest.mark.usefixtures("downloaded")
@pytest.mark.parametrize(
    ("checkpoint", "revision"),
    [("org/model", "f" * 40), (None, COMMIT), ("demo", COMMIT), ("folder", COMMIT), ("a b", "main")],
)
def test_what_has_no_such_revision_is_refused(
    checkpoint: str | None, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmoothgateError) as caught:
        _served(checkpoint, revision, tmp_path)
    assert caught.value.code == "bad_revision"
    assert revision in caught.value.message
