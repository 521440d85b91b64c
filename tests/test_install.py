"""An installed wheel has everything that it needs, search spaces included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.install
def test_an_installed_wheel_finds_its_search_spaces(tmp_path: Path) -> None:
    python = [sys.executable, "-m"]
    build = [*python, "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("torch_autotune-*.whl")
    target = str(tmp_path / "site")
    install = [*python, "pip", "install", "--no-deps", "--target", target, str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = "from autotune.cli.app import main; main()"
    environment = {**os.environ, "PYTHONPATH": target}
    listed = subprocess.run(
        [sys.executable, "-c", code, "list", "spaces", "--json"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    packaged = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml"))
    assert json.loads(listed.stdout)["spaces"] == packaged
    assert (Path(target) / "autotune" / "search_spaces" / "resnet.yaml").is_file()
    assert (Path(target) / "autotune" / "py.typed").is_file()
