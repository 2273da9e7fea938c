"""`.ci/system` on machines that are made up of scripts: what it installs, and what it only names."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci/system"
TOOLS = ("bash", "cat", "cp", "env", "grep", "mkdir", "mktemp", "rm", "touch")
# apt-get notes what it is asked for. Packages are known, and an installed one brings its program.
SCRIPTS = {
    "ldconfig": 'for name in numa atomic; do [ ! -e "$MACHINE/lib${name}1" ] || echo lib$name.so.1; done',
    "id": 'echo "$UID_HERE"',
    "sudo": 'shift; [ -e "$MACHINE/sudo-allowed" ] && "$@"',
    "apt-cache": '[ "$2" != chromium ] || [ ! -e "$MACHINE/no-chromium" ]',
    "apt-get": """
echo "$@" >> "$MACHINE/apt.log"
case "$*" in
    *install*) for word in "$@"; do case $word in
        libnuma1 | libatomic1) touch "$MACHINE/$word" ;;
        redis-tools) cp "$MACHINE/bin/id" "$MACHINE/bin/redis-check-rdb" ;;
        git | npm | chromium) cp "$MACHINE/bin/id" "$MACHINE/bin/$word" ;;
        nodejs) cp "$MACHINE/bin/id" "$MACHINE/bin/node" ;;
    esac; done ;;
    *download*) touch "${@: -1}_2_amd64.deb" ;;
esac""",
    "dpkg": """
mkdir -p usr/bin usr/sbin
case $2 in
    nginx_*) cp "$MACHINE/bin/id" usr/sbin/nginx ;;
    prometheus_*) for name in prometheus promtool; do cp "$MACHINE/bin/id" usr/bin/$name; done ;;
esac""",
}


class Machine:
    """A machine without anything that the service or the tests need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in TOOLS:
            (self.programs / name).symlink_to(str(shutil.which(name)))
        for name, text in SCRIPTS.items():
            self.add(name, text)

    def add(self, name: str, text: str = "") -> None:
        (self.programs / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (self.programs / name).chmod(0o755)

    def run(self, purpose: str, *, uid: int, engine: str = "cpu") -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.programs), "MACHINE": str(self.folder), "UID_HERE": str(uid)}
        command: list[str | Path] = [SCRIPT, purpose, self.folder / "venv", engine]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    @property
    def asked(self) -> str:
        """What apt-get was asked for."""
        log = self.folder / "apt.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_root_gets_what_the_service_needs_and_nothing_else(machine: Machine) -> None:
    ran = machine.run("serve", uid=0)
    assert (ran.returncode, ran.stderr) == (0, "Installing system packages: libnuma1\n")
    assert "install --no-install-recommends libnuma1\n" in machine.asked


def test_nothing_is_asked_for_where_everything_is_there(machine: Machine) -> None:
    (machine.folder / "libnuma1").touch()
    assert machine.run("serve", uid=0).stderr == ""
    assert machine.asked == ""


def test_without_rights_the_missing_library_is_named_and_serving_fails(machine: Machine) -> None:
    ran = machine.run("serve", uid=1000)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "apt-get install libnuma1" in ran.stderr
    assert machine.asked == ""


def test_vllm_on_cuda_needs_no_libnuma(machine: Machine) -> None:
    assert machine.run("serve", uid=1000, engine="cuda").returncode == 0


def test_sudo_without_a_password_is_used(machine: Machine) -> None:
    (machine.folder / "sudo-allowed").touch()
    assert machine.run("serve", uid=1000).returncode == 0
    assert "libnuma1" in machine.asked


def test_root_gets_what_the_tests_need_and_servers_that_are_not_started(machine: Machine) -> None:
    ran = machine.run("test", uid=0)
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1)
    assert (
        "install --no-install-recommends "
        "libnuma1 git nodejs npm chromium fonts-dejavu-core libatomic1 redis-tools\n"
    ) in machine.asked
    programs = {path.name for path in (machine.folder / "venv/bin").iterdir()}
    assert programs == {"prometheus", "promtool", "nginx"}


def test_without_rights_what_tests_need_is_named_and_they_go_on(machine: Machine) -> None:
    (machine.folder / "libnuma1").touch()
    ran = machine.run("test", uid=1000)
    assert (ran.returncode, ran.stderr.count("\n")) == (0, 1)
    assert "git nodejs npm chromium fonts-dejavu-core libatomic1 prometheus redis-tools nginx" in ran.stderr


def test_a_package_that_the_distribution_has_not_is_named_and_the_others_are_installed(
    machine: Machine,
) -> None:
    (machine.folder / "no-chromium").touch()
    ran = machine.run("test", uid=0)
    assert ran.returncode == 0
    assert (
        "install --no-install-recommends libnuma1 git nodejs npm fonts-dejavu-core libatomic1 redis-tools\n"
        in machine.asked
    )
    assert ran.stderr.splitlines()[-1].endswith(": chromium fonts-dejavu-core")


def test_debians_npm_is_not_installed_next_to_another_node(machine: Machine) -> None:
    machine.add("node")
    machine.run("test", uid=0)
    assert "npm" not in machine.asked
