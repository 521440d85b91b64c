"""Importance of the parameters of trials for their values."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from autotune.study.reader import Records


def importances(records: Records) -> dict[str, float]:
    """Parameter → share of its importance by PED-ANOVA (arXiv 2304.10255), the largest first.

    Empty if there are fewer than two complete trials or all have the same value.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = records.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        shares = get_param_importances(records.study, evaluator=PedAnovaImportanceEvaluator())
    return {name: share for name, share in shares.items() if share > 0}
