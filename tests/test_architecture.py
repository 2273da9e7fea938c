"""The page on the architecture names modules that exist, and counts them right."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "service/smoothgate"
PAGE = (ROOT / "docs/architecture.md").read_text()


def _section(title: str) -> str:
    return PAGE.partition(f"{title}\n")[2].partition("\n## ")[0]


def test_the_modules_on_the_way_of_a_picture_exist_and_are_as_many_as_the_page_says() -> None:
    section = _section("### The modules on the way of a picture")
    rows = re.findall(r"^\| `([a-z_/]+)` \|", section, flags=re.M)
    others = re.findall(r"`((?:http|gate|sampling)/[a-z_]+)`", section.rpartition("|\n")[2])
    assert f"These {len(rows)} modules" in section
    assert len(rows) == len(set(rows)) > 20
    assert ("Ten more" in section, len(others)) == (True, 10)
    for module in (*rows, *others):
        assert (PACKAGE / f"{module}.py").is_file(), module


def test_the_hand_overs_between_threads_are_numbered() -> None:
    section = _section("### The modules on the way of a picture")
    numbers = [int(number) for number in re.findall(r"\*\*(\d)\*\*", section)]
    assert numbers == [1, 2, 3, 4, 5]
    assert "changes threads five times" in " ".join(section.split())


def test_every_place_that_a_change_goes_to_exists() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|$", _section("## Where a change goes"), flags=re.M)
    places = [place for row in rows for place in re.findall(r"`([a-z_/]+(?:\.py|\.md|/))`", row)]
    assert len(places) > 40
    for place in places:
        assert (PACKAGE / place).exists() or (ROOT / place).exists(), place


def test_the_layers_of_the_page_are_those_of_the_contract() -> None:
    contract = (ROOT / "pyproject.toml").read_text().partition('name = "Imports point one way"')[2]
    layers = re.findall(r"^    \"([a-z |:]+)\",$", contract.partition("containers")[0], flags=re.M)
    rows = re.findall(r"^\| (`[a-z`,; ]+`) \|", _section("## The layers"), flags=re.M)
    assert [re.findall(r"\w+", row) for row in rows] == [re.findall(r"\w+", layer) for layer in layers]
