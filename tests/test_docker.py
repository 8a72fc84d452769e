"""The image holds all that the server needs. No engine builds it here: files go in as .dockerignore lets them."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_goes_into_the_image_starts(tmp_path: Path) -> None:
    """With nothing else of the tree within reach, ``server.py`` imports all that it imports."""
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for pattern in let_in:
        for path in ROOT.glob(pattern):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, tmp_path / path.name)
    done = subprocess.run(
        [sys.executable, "server.py", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    assert (tmp_path / "static" / "bountyexpo-realtime.js").exists()
