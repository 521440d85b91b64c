"""Trials as a pandas data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import DependencyError
from autotune.utils.distribution import install_command

if TYPE_CHECKING:
    import pandas

    from autotune.run.results import BareStudy


def frame_of(study: BareStudy) -> pandas.DataFrame:
    """One row per trial; hyperparameters and the choices of units (`unit:NAME`) are columns.

    Raises `DependencyError` if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise DependencyError(
            f"A frame needs pandas, which is not installed: {install_command('notebook')}."
        ) from error
    units = {f"unit:{unit}": unit for unit in study.problem.units}
    rows = [
        {
            "number": trial.number,
            "state": study.state_of(trial),
            "value": trial.value,
            "parameters": trial.cost.parameters,
            "bytes": trial.cost.bytes,
            "seconds": trial.seconds,
            **trial.hyperparameters,
            **{column: trial.plan[unit].label for column, unit in units.items()},
        }
        for trial in study.trials
    ]
    return pandas.DataFrame(rows)
