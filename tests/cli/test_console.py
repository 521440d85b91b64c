"""Consoles of any encoding, and names that would control them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder

from .conftest import SCRIPT
from .test_foreign_runs import ENDED

EVIL = "\x1b]0;owned\x07\x1b[2Jrose"


def printed(*arguments: object, encoding: str) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437"])
def test_a_console_that_lacks_characters_shows_others(tmp_path, encoding):
    run = Path(shutil.copytree(ENDED, tmp_path / "Läufe 花"))
    assert "?" in printed("status", run, encoding=encoding)
    assert "best" in printed("report", run, "--format", "md", encoding=encoding).lower()


@pytest.mark.parametrize("command", [("status",), ("report", "--format", "md"), ("config",)])
def test_escape_sequences_in_a_run_are_shown_harmlessly(call, tmp_path, command):
    run = Path(shutil.copytree(ENDED, tmp_path / "run"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("task: object", f"task: {json.dumps(EVIL)}"))
    code, out, errors = call(command[0], run, *command[1:])
    assert code in (0, 2)
    assert "\x1b" not in out + errors
    assert "\x07" not in out + errors


def test_an_error_message_shows_names_harmlessly(call):
    code, _, errors = call("status", f"runs/{EVIL}")
    assert code == 2
    assert "\x1b" not in errors


def test_numbers_that_json_lacks_are_null(call, tmp_path):
    run = Path(shutil.copytree(ENDED, tmp_path / "run"))
    records = Records(RunFolder(run), None, is_writable=True)
    final = records.attribute("stage:final")
    records.study.set_user_attr("stage:final", {**final, "value": float("nan")})
    for command in (("status", run, "--json"), ("report", run, "--format", "json")):
        code, out, errors = call(*command)
        assert code == 0, errors
        json.loads(out, parse_constant=pytest.fail)


def test_the_command_that_resumes_is_quoted_for_the_shell(call, tmp_path):
    run = Path(shutil.copytree(ENDED.parent / "run-interrupted", tmp_path / "a run; ls $HOME"))
    for name in ("backbone", "task"):
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            config.replace(f"{name}: object", f"{name}: builtin:digits")
        )
    out = json.loads(call("status", run, "--json")[1])
    assert shlex.split(out["resume"]) == ["autotune", "resume", str(run)]
