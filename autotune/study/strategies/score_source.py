"""The scores of choices that a strategy asks for, which are made before its first trial."""

from __future__ import annotations

from enum import Enum


class ScoreSource(Enum):
    """Source of a strategy's scores, which the session computes."""

    NONE = "none"
    PROXIES = "proxies"
    """One criterion on the untrained choices, named by the strategy's `criterion`."""

    POLICY = "policy"
    """A policy that a supernet teaches; it may start from `--policy` and `--supernet`."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages of a search that make these scores, in their order."""
        return _STAGES[self]


_STAGES = {
    ScoreSource.NONE: (),
    ScoreSource.PROXIES: ("proxies",),
    ScoreSource.POLICY: ("head", "proxies", "supernet"),
}
