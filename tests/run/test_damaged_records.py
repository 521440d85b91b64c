"""A study whose records are of other types, read in Python as by the command line."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
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
        with pytest.raises(RunError, match="damaged") as raised:
            look()
        assert "\n" not in str(raised.value)


def change(run: Path, statement: str, *values: str) -> None:
    """Run a statement of SQL on the study's database."""
    with closing(sqlite3.connect(run / "study.db")) as connection:
        connection.execute(statement, values)
        connection.commit()


@pytest.mark.parametrize("value", ["{}", "[]", '{"name": "x"}', "1", "", '{"name": "IntDist"}'])
def test_a_damaged_space_of_a_parameter_is_refused_in_one_line(tmp_path, value):
    run = Path(shutil.copytree(ENDED, tmp_path / "run"))
    change(run, "UPDATE trial_params SET distribution_json = ?", value)
    with pytest.raises(RunError, match="this one is damaged") as raised:
        _ = autotune.Study(run).trials
    assert "\n" not in str(raised.value)


def test_an_identity_that_lacks_a_value_is_refused(tmp_path):
    run = Path(shutil.copytree(ENDED, tmp_path / "run"))
    Records(RunFolder(run), None, is_writable=True).study.set_user_attr("identity", {"seed": "x"})
    study = autotune.Study(run)
    with pytest.raises(RunError, match="must state its data"):
        study.identity_value("data")
    for read in (lambda: study._records.metric, lambda: study._records.seed):
        with pytest.raises(RunError, match="this one is damaged"):
            read()
