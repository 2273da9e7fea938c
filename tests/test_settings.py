import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from smoothgate.cli import settings_documents as documents
from smoothgate.settings import GROUPS, PREFIX, Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for row in documents.rows():
        monkeypatch.delenv(row.variable, raising=False)
    monkeypatch.chdir(tmp_path)


def test_env_example_is_the_rendered_table() -> None:
    assert (ROOT / ".env.example").read_text() == documents.env_example()


def test_settings_page_is_the_rendered_table() -> None:
    assert (ROOT / "docs/settings.md").read_text() == documents.markdown()


def test_every_setting_is_described_and_in_one_group() -> None:
    names = [row.name for row in documents.rows()]
    assert sorted(names) == sorted(Settings.model_fields)
    for row in documents.rows():
        assert row.description.endswith("."), row.variable


def test_the_documents_begin_with_the_twenty_common_settings_and_call_the_others_advanced() -> None:
    assert len(documents.COMMON) == 20
    for text in (documents.env_example(), documents.markdown()):
        common, _, advanced = text.partition("Advanced: ")
        for row in documents.rows():
            place = common if row.name in documents.COMMON else advanced
            assert re.search(rf"\b{row.variable}\b", place), row.variable


def test_each_group_alone_is_a_part_of_the_settings() -> None:
    for group in GROUPS.values():
        assert issubclass(Settings, group)
        alone = group()
        assert {name: getattr(Settings(), name) for name in group.model_fields} == alone.model_dump()


def test_env_example_with_every_line_uncommented_gives_the_defaults(tmp_path: Path) -> None:
    lines = [line.removeprefix("#") for line in documents.env_example().splitlines()]
    (tmp_path / ".env").write_text("\n".join(line for line in lines if line.startswith(PREFIX)))
    assert Settings() == Settings.model_construct()


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SMOOTHGATE_PORT=9000\nSMOOTHGATE_SIGMA=0.25\n")
    monkeypatch.setenv("SMOOTHGATE_PORT", "9001")
    assert (Settings().port, Settings().sigma) == (9001, 0.25)


def test_lists_are_written_as_words_and_as_comma_separated_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHGATE_EPS", "0.1, 0.2")
    monkeypatch.setenv("SMOOTHGATE_ENGINE_ARGS", "--seed 7 --override 'a b'")
    assert Settings().eps == (0.1, 0.2)
    assert Settings().engine_args == ("--seed", "7", "--override", "a b")


def test_a_misspelt_name_in_the_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SMOOTHGATE_SIGMA_MXA=2\n")
    with pytest.raises(ValidationError, match="sigma_mxa"):
        Settings()


def test_a_file_may_hold_variables_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgres://elsewhere\nSMOOTHGATE_PORT=9000\n")
    assert Settings().port == 9000


def test_a_secret_shows_neither_in_repr_nor_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHGATE_ENGINE_API_KEY", "hunter2")
    assert "hunter2" not in repr(Settings())
    with pytest.raises(ValidationError) as caught:
        Settings(engine_api_key=["hunter2"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "0"),
        ("port", "65536"),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("engine_url", "localhost:8000"),
        ("engine_read_timeout_seconds", "0"),
        ("sigma", "0"),
        ("sigma", "nan"),
        ("sigma_max", "inf"),
        ("n_certify", "0"),
        ("alpha", "0"),
        ("alpha", "1"),
        ("cosine_threshold", "1"),
        ("cosines", "0.5,1"),
        ("cosines", "-0.1,0.5"),
        ("cosines", "0.7,0.5"),
        ("cosines", "nan"),
        ("eps", "0,0.5"),
        ("eps", "0.5,0.25"),
        ("eps", "0.5,x"),
        ("eps", "nan"),
        ("max_images", "0"),
        ("degrade", "256,512"),
        ("degrade", "256,0"),
        ("metrics_port", "0"),
    ],
)
def test_a_value_out_of_bounds_is_rejected_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), value)
    with pytest.raises(ValidationError, match=rf"(?m)^{name}\b"):
        Settings()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"sigma": 2.0}, "SMOOTHGATE_SIGMA=2 is not within"),
        ({"sigma_min": 0.75}, "SMOOTHGATE_SIGMA=0.5 is not within"),
        ({"host": "0.0.0.0"}, "can be reached from elsewhere"),
        ({"host": "gate.example"}, "can be reached from elsewhere"),
        ({"laboratory": True, "model": "other"}, "SMOOTHGATE_LABORATORY=true needs the playground"),
        ({"laboratory": True, "playground": False}, "SMOOTHGATE_LABORATORY=true needs the playground"),
        ({"degrade": (256,)}, "is not below SMOOTHGATE_N_CERTIFY=256"),
        ({"n_select": 100, "n_certify": 900, "max_samples": 999}, "exceed SMOOTHGATE_MAX_SAMPLES=999"),
    ],
)
def test_values_that_contradict_each_other_are_rejected(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [{"host": "::1"}, {"host": "localhost"}, {"host": "0.0.0.0", "anonymous": True, "ephemeral_key": True}],
)
def test_no_accounts_are_needed_on_loopback_or_with_anonymous(values: dict[str, object]) -> None:
    assert Settings(**values).accounts is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "page", "attacks"),
    [
        ({}, True, True),
        ({"playground": False}, False, False),
        ({"model": "other"}, False, False),
        ({"model": "other", "playground": True}, True, False),
        ({"model": "demo"}, True, True),
        ({"accounts": "accounts.json"}, True, False),
        ({"accounts": "accounts.json", "laboratory": True}, True, True),
        ({"laboratory": False}, True, False),
    ],
)
def test_the_demo_model_has_the_page_and_without_accounts_the_laboratory(
    values: dict[str, object], page: bool, attacks: bool
) -> None:
    settings = Settings(**values)  # type: ignore[arg-type]
    assert (settings.has_playground, settings.has_laboratory) == (page, attacks)


@pytest.mark.parametrize(
    "text", ["https://a.example/", "https://a.example/chat", '["https://a.example"]', "a.example", "https://"]
)
def test_an_origin_that_no_browser_sends_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """It would match nothing, and pages would be refused without a word at the start."""
    monkeypatch.setenv("SMOOTHGATE_CORS_ORIGINS", text)
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(_env_file=None)


def test_origins_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHGATE_CORS_ORIGINS", "https://a.example http://[::1]:5173 *")
    assert Settings(_env_file=None).cors_origins == ("https://a.example", "http://[::1]:5173", "*")


def test_the_photographs_model_certifies_answers_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings(_env_file=None).certify == "features"
    assert Settings(_env_file=None, model="photos", certify="features").certify == "features"
    monkeypatch.setenv("SMOOTHGATE_MODEL", "photos")
    assert Settings(_env_file=None).certify == "answer"
    monkeypatch.setenv("SMOOTHGATE_CERTIFY", "features")
    assert Settings(_env_file=None).certify == "features"
