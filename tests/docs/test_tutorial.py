"""The tutorial, followed to the letter by somebody who has nothing but a wheel and pip."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from .test_blocks import ROOT, run_page


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The Python of an environment with the wheel; what it depends on is lent by this one."""
    python = [sys.executable, "-m"]
    build = [*python, "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("torch_autotune-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    installed_python = tmp_path / "venv" / "bin" / "python"
    install = [str(installed_python), "-m", "pip", "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return installed_python


@pytest.mark.install
@pytest.mark.pages
def test_the_tutorial_ends_with_a_mask_and_a_report(fresh: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run_page(ROOT / "docs" / "tutorial.md", folder, fresh)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert len([*folder.glob("images/*/*.png")]) == 60
    mask = json.loads((folder / "mask.json").read_text())
    assert {"stem", "layer1.0", "layer3.1"} <= mask["units"].keys()
    assert (folder / "mask.safetensors").is_file()
    assert (folder / "runs/images/report.html").stat().st_size > 10_000
