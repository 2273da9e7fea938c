"""The test vectors, checked by `smoothgate verify`'s code and by the JavaScript verifier."""

import base64
import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special
from typer.testing import CliRunner

from smoothgate.cli.main import app
from smoothgate.verification import UNCHECKED, answered, check, read
from tests.node import run
from tests.playground.browser import chromium, opened
from tests.programs import program
from tests.vectors import make
from tests.whole_service import SAMPLES, Gate

Json = dict[str, Any]

CONTENT: Json = json.loads(make.FILE.read_text())
VECTORS: dict[str, Json] = {vector["name"]: vector for vector in CONTENT["vectors"]}
PACKAGE = Path(make.SCHEMAS).parent
RESULTS = Path(__file__).with_name("results.mjs")


def test_the_files_are_those_that_are_made() -> None:
    """But for the last digits of numbers, which another version of scipy may give."""
    assert len(VECTORS) == len(CONTENT["vectors"])
    here = make.made()
    assert (CONTENT["keys"], CONTENT["files"]) == (here["keys"], here["files"])
    for old, new in zip(CONTENT["vectors"], here["vectors"], strict=True):
        assert old.keys() == new.keys()
        for field in ("keys", "images", "checks", "of"):
            assert old.get(field) == new.get(field), old["name"]
        assert old["name"].partition(" = ")[0] == new["name"].partition(" = ")[0]
    assert make.SCHEMAS.read_text() == make.schemas()


def _python(vector: Json) -> dict[str, bool]:
    given = copy.deepcopy(vector.get("given") or VECTORS[vector["of"]]["given"])
    if change := vector.get("shown"):
        given = make.edited(given, change["at"], change["to"])
    text = given if isinstance(given, str) else json.dumps(given)
    ((jws, plain),) = read(text)
    if change := vector.get("payload"):
        head, body, signature = jws.split(".")
        payload = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        sealed = json.dumps(make.edited(payload, change["at"], change["to"])).encode()
        jws = ".".join((head, base64.urlsafe_b64encode(sealed).decode().rstrip("="), signature))
    images = [base64.b64decode(CONTENT["files"][name]) for name in vector["images"]]
    found = check(
        jws,
        plain,
        CONTENT["keys"][vector["keys"]],
        images[0] if images else None,
        images=images,
        texts=answered(text),
    )
    return {each.name: each.passed for each in found if each.name not in UNCHECKED}


def test_python_gives_the_results_of_the_vectors() -> None:
    wrong = {}
    for name, vector in VECTORS.items():
        found = _python(vector)
        if found != vector["checks"]:
            wrong[name] = found
    assert wrong == {}


def _agree(found: dict[str, dict[str, bool]]) -> None:
    expected = {name: vector["checks"] for name, vector in VECTORS.items()}
    assert {name: checks for name, checks in found.items() if checks != expected[name]} == {}
    assert found.keys() == expected.keys()


def _in_node(source: str) -> Any:
    node = program("node", package="the Debian package nodejs")
    command = [node, "--no-warnings", "--input-type=module", "-e", source]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def _url(path: Path) -> str:
    return json.dumps(path.resolve().as_uri())


def test_javascript_gives_the_results_of_the_vectors_in_node() -> None:
    source = f"""
        import {{ readFileSync }} from "node:fs";
        import * as verifier from {_url(PACKAGE / "index.js")};
        import {{ results }} from {_url(RESULTS)};
        const content = JSON.parse(readFileSync({json.dumps(str(make.FILE))}, "utf8"));
        console.log(JSON.stringify(await results(verifier, content)));
    """
    _agree(_in_node(source))


def test_javascript_gives_the_results_of_the_vectors_in_a_browser(quick_gate: Gate) -> None:
    """From the files that the service serves."""
    function = RESULTS.read_text().replace("export async function", "async function")
    script = f"""async (content) => {{
        {function}
        return await results(await import("/playground/verify/index.js"), content);
    }}"""
    with chromium() as browser, opened(browser, quick_gate.url) as page:
        _agree(page.evaluate(script, CONTENT))


def test_the_package_installs_and_checks_an_answer_of_the_service(quick_gate: Gate, tmp_path: Path) -> None:
    """As its README does."""
    program("npm", package="the Debian package npm")
    run("npm", "init", "-y", cwd=tmp_path)
    run("npm", "install", "--no-audit", "--no-fund", "--offline", PACKAGE.resolve(), cwd=tmp_path)
    (tmp_path / "answer.json").write_text(quick_gate.ask("What digit?", "seven.png").text)
    (tmp_path / "seven.png").write_bytes((SAMPLES / "seven.png").read_bytes())
    example = re.search("```js\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.mjs").write_text(example[1].replace("https://gate.example", quick_gate.url))
    command = ["node", "--no-warnings"]
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        command.append("--experimental-global-webcrypto")
    ended = subprocess.run(
        [*command, "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("true"), ended.stdout


def test_a_pinned_key(tmp_path: Path) -> None:
    kid = make.CURRENT[0].kid
    source = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ checkAnswer }} from {_url(PACKAGE / "index.js")};
        const file = readFileSync({json.dumps(str(make.FILE))}, "utf8");
        const {{ keys, vectors: [{{ given }}] }} = JSON.parse(file);
        const good = [];
        for (const pin of [{json.dumps(kid)}, {json.dumps(make.OLD[0].kid)}]) {{
          good.push((await checkAnswer(given, keys.service, {{ pin: [pin] }})).good);
        }}
        console.log(JSON.stringify(good));
    """
    assert _in_node(source) == [True, False]
    (tmp_path / "answer.json").write_text(json.dumps(VECTORS["features"]["given"]))
    (tmp_path / "keys.json").write_text(json.dumps(CONTENT["keys"]["service"]))
    files = ["verify", str(tmp_path / "answer.json"), "--keys", str(tmp_path / "keys.json")]
    for pin, code in ((kid, 0), (make.OLD[0].kid, 1), ("abc", 1)):
        result = CliRunner().invoke(app, [*files, "--pin", pin])
        assert result.exit_code == code, result.output
    assert "holds no key abc" in result.output


def test_the_normal_distribution_in_javascript_is_scipys() -> None:
    points = [float(x) for x in np.linspace(-37.0, 8.0, 1201)]
    shares = [float(special.ndtr(x)) for x in points]
    source = f"""
        import {{ ndtr, ndtri }} from {_url(PACKAGE / "normal.js")};
        const points = {json.dumps(points)}, shares = {json.dumps(shares)};
        console.log(JSON.stringify([points.map(ndtr), shares.map(ndtri)]));
    """
    below, quantiles = _in_node(source)
    np.testing.assert_allclose(below, shares, rtol=1e-12)
    inside = np.asarray(shares) < 1.0
    ours = np.asarray([np.inf if each is None else each for each in quantiles])[inside]
    np.testing.assert_allclose(ours, special.ndtri(np.asarray(shares)[inside]), rtol=1e-12, atol=1e-15)
