"""Source of the scores of choices that a strategy receives before its first trial."""

from __future__ import annotations

from enum import Enum


class ScoreSource(Enum):
    """Source of a strategy's scores; the session computes them."""

    NONE = "none"
    PROXIES = "proxies"
    """One criterion on the untrained choices, named by the strategy's `criterion`."""

    POLICY = "policy"
    """Policy trained on a supernet; it may start from `--policy` and `--supernet`."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages of a search that compute these scores, in order."""
        return _STAGES[self]


_STAGES = {
    ScoreSource.NONE: (),
    ScoreSource.PROXIES: ("proxies",),
    ScoreSource.POLICY: ("head", "proxies", "supernet"),
}
