"""The documents as a site, built as strictly as mkdocs can: no broken link, no page that no menu leads to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    for part in ("Evaluate", "Operate", "Understand", "Extend"):
        assert part in home
    assert "fonts.googleapis.com" not in home
