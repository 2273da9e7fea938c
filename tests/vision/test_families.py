"""Which checkpoint is meant, and whether it is there, before anything of it is loaded."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from smoothgate.errors import SmoothgateError
from smoothgate.vision import families, require_checkpoint


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/nowhere/model", "^There is no folder /nowhere/model"),
        ("./nowhere", "^There is no folder ./nowhere"),
        ("nowhere", "^There is no folder nowhere. A Hugging Face id has the form OWNER/NAME"),
        ("no where/model", "^There is no folder no where/model, and a Hugging Face id cannot look like this"),
    ],
)
def test_a_folder_that_is_not_there_is_named(model: str, reason: str) -> None:
    with pytest.raises(SmoothgateError, match=reason):
        require_checkpoint(model)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SmoothgateError, match="holds no weights"):
        require_checkpoint(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    require_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RepositoryNotFoundError, "and Hugging Face has no such model"),
        (GatedRepoError, "only to those who have accepted its terms"),
        (OSError, "not among the models that were downloaded, and Hugging Face cannot be reached: no route"),
    ],
)
def test_an_id_that_cannot_be_had_is_asked_for_once(
    failure: type[Exception], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(url: str, **options: Any) -> None:
        asked.append(url)
        response = httpx.Response(404, request=httpx.Request("HEAD", url))
        raise failure("no route", **({} if failure is OSError else {"response": response}))

    monkeypatch.setattr(families, "get_hf_file_metadata", answer)
    with pytest.raises(SmoothgateError, match=reason):
        require_checkpoint("owner/name")
    assert len(asked) == 1
    assert asked[0].endswith("/owner/name/resolve/main/config.json")
