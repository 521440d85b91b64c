"""Which parameters of trials their values depend on."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from autotune.study.reader import Records


def importances(records: Records) -> dict[str, float]:
    """Parameter → its share, the largest first, by PED-ANOVA (arXiv 2304.10255).

    Empty where complete trials are fewer than two, or all have the same value.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = records.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        found = get_param_importances(records.study, evaluator=PedAnovaImportanceEvaluator())
    return {name: share for name, share in found.items() if share > 0}
