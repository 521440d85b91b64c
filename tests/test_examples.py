"""Every example runs, at small size."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["first_search", "own_network"])
def test_example_runs_and_tells_a_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(str(tmp_path / "run"), trials=2, epochs=2)
    assert "Plan: " in capsys.readouterr().out
    assert (tmp_path / "run" / "best" / "delta.safetensors").is_file()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60
