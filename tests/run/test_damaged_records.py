"""A study whose records are of other types, read in Python as by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import autotune
from autotune.errors import RunError
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder

ENDED = Path(__file__).parent.parent / "data" / "formats" / "0.1.0" / "run-ended"


@pytest.mark.parametrize(
    ("name", "value"), [("sitting:1", "long"), ("sitting:1", [1]), ("timings:1", 3)]
)
def test_records_of_foreign_types_are_refused_in_one_line(tmp_path, name, value):
    run = Path(shutil.copytree(ENDED, tmp_path / "run"))
    Records(RunFolder(run), None, is_writable=True).study.set_user_attr(name, value)
    study = autotune.Study(run)
    for look in (study.status, study.report):
        with pytest.raises(RunError, match="cannot be read") as raised:
            look()
        assert "\n" not in str(raised.value)
