"""Records of finished work other than trials, which `resume` then skips.

Each record is one JSON value among the study's attributes, written once when the work ends. Older
versions wrote the same keys without a `version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any, Protocol

from autotune.errors import RunError
from autotune.problem.budget import Cost
from autotune.problem.plan import Plan
from autotune.study.paired import Difference, Values, by_fold
from autotune.utils.typed import typed

VERSION = 1
"""Version of the records below; records with a larger version are refused."""

PREPARATION, ESTIMATE, PROXIES = "stage:preparation", "stage:estimate", "stage:proxies"
PREPARING, DIGESTS = "preparing", "digest"
POLICY, FINAL = "stage:policy", "stage:final"
BASELINE, BEGUN_BASELINE, REPEAT, PROBE_REPEAT = "reference", "begun", "repeat", "probe"
COMPARED, SESSION, TIMINGS = "compare", "sitting", "timings"
"""Names of study attributes, or their prefixes before a colon. They are part of the format."""


def checked(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record; raises `RunError` if a later version of autotune wrote it."""
    if (version := data.get("version", VERSION)) > VERSION:
        raise RunError(
            f"This version reads records of version {VERSION}, the study has version {version}. "
            "Use the version of autotune that wrote it."
        )
    return data


def versioned(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON value of a record with the version, as it is stored."""
    return {"version": VERSION, **data}


class Recorded(Protocol):
    """Record that can be stored."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Preparation:
    """Whether normalisation statistics were re-estimated, and why."""

    bnstats: str
    """`on` or `off`."""

    why: str
    probe: Mapping[str, float] = field(default_factory=dict)
    """`on` and `off` → value of a linear probe; empty if they were not compared."""

    uniform: Mapping[str, float] = field(default_factory=dict)
    """`on` and `off` → value of uniform low rank; empty if they were not compared."""

    def to_json(self) -> dict[str, Any]:
        compared = {"probe": dict(self.probe), "uniform": dict(self.uniform)}
        values = {name: by_mode for name, by_mode in compared.items() if by_mode}
        return {"bnstats": self.bnstats, "why": self.why, **values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preparation:
        data = checked(data)
        by_mode = data.get("probe", {}), data.get("uniform", {})
        return typed(cls(data["bnstats"], data["why"], *by_mode))


@dataclass(frozen=True)
class Repeat:
    """Another training of a trial's plan, or of the linear probe, with a different seed."""

    value: float
    """Value on validation; with folds, the mean over them."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    folds: tuple[float, ...] = ()
    seconds: float = 0.0
    digest: str = ""
    """SHA-256 of the delta file; empty if none was kept, or it is not known."""

    def values(self, seed: int) -> Values:
        """(seed, fold) → value on validation."""
        return by_fold(seed, self.value, self.folds)

    def to_json(self) -> dict[str, Any]:
        digest = {"digest": self.digest} if self.digest else {}
        return {**_training_to_json(self), "seconds": self.seconds, **digest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Repeat:
        return typed(cls(**_training_from_json(checked(data)), digest=data.get("digest", "")))


@dataclass(frozen=True)
class Baseline:
    """Plan trained for comparison, at the best of several learning rates on validation."""

    plan: Plan
    hyperparameters: Mapping[str, float]
    value: float
    """Value on validation; with folds, the mean over them."""

    test: Mapping[str, float]
    """Metrics on the test part, and `n`, its number of examples."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    folds: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()
    """Value after each epoch (fold)."""

    cost: Cost = Cost()
    fits: bool = True
    """Whether the plan is within the budget."""

    seconds: float = 0.0
    """Duration of the trainings at all learning rates."""

    def values(self, seed: int) -> Values:
        """(seed, fold) → value on validation."""
        return by_fold(seed, self.value, self.folds)

    def to_json(self) -> dict[str, Any]:
        return {
            **_training_to_json(self),
            **({"curve": list(self.curve)} if self.curve else {}),
            "test": dict(self.test),
            "cost": asdict(self.cost),
            "fits": self.fits,
            "plan": self.plan.to_json(),
            "label": str(self.plan),
            "hyperparameters": dict(self.hyperparameters),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Baseline:
        return typed(cls(**_baseline_from_json(checked(data))))


@dataclass(frozen=True)
class Compared(Baseline):
    """Training of one recipe with one seed by `compare`."""

    trainings: int = 0
    """Number of trainings that it took; 0 if the search had already run it."""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "trainings": self.trainings}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Compared:
        return typed(cls(**_baseline_from_json(checked(data)), trainings=data["trainings"]))

    @classmethod
    def known(cls, baseline: Baseline) -> Compared:
        """Record of a baseline that the search itself has trained."""
        return cls(**{**vars(baseline), "seconds": 0.0})


@dataclass(frozen=True)
class PolicyStage:
    """Outcome of learning a policy."""

    scores: Mapping[tuple[str, str], float]
    """(unit, label) → score."""

    earned: Mapping[tuple[str, str], list[float]]
    """(unit, label of one method) → its credits in the supernet, one per batch."""

    has_earned: bool
    plan: Plan
    proxies_plan: Plan
    """Plan before the supernet was trained."""

    rounds: int
    stable: bool
    """Whether the plan had stopped changing after the last round."""

    probabilities: tuple[Mapping[tuple[str, str], float], ...]
    """(unit, label) → probability, after each round."""

    agreement: float | None
    """Rank correlation of the proxies on two halves of the data; None for fewer than three."""

    moved: float
    """Largest change of a probability by the supernet."""

    unreached: tuple[str, ...]
    """`UNIT LABEL` of choices that no gradient reaches."""

    left_out: tuple[str, ...]
    """Labels that cannot share a supernet."""

    rates: Mapping[str, float]
    """Hyperparameters with which trials start."""

    seconds: float

    @property
    def same_as_proxies(self) -> bool:
        """Whether the supernet chose the plan that the proxies alone would have."""
        return self.plan == self.proxies_plan

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": rows(self.scores),
            "earned": rows(self.earned),
            "has_earned": self.has_earned,
            "plan": self.plan.to_json(),
            "label": str(self.plan),
            "proxies_plan": self.proxies_plan.to_json(),
            "same_as_proxies": self.same_as_proxies,
            "rounds": self.rounds,
            "stable": self.stable,
            "probabilities": [rows(after) for after in self.probabilities],
            "agreement": self.agreement,
            "moved": self.moved,
            "unreached": list(self.unreached),
            "left_out": list(self.left_out),
            "rates": dict(self.rates),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PolicyStage:
        plain = ("has_earned", "rounds", "stable", "agreement", "moved", "rates", "seconds")
        return typed(
            cls(
                **{name: checked(data)[name] for name in plain},
                scores=from_rows(data["scores"]),
                earned=from_rows(data["earned"]),
                plan=Plan.from_json(data["plan"]),
                proxies_plan=Plan.from_json(data["proxies_plan"]),
                probabilities=tuple(map(from_rows, data["probabilities"])),
                unreached=tuple(data["unreached"]),
                left_out=tuple(data["left_out"]),
            )
        )


@dataclass(frozen=True)
class Spread:
    """Values of one quantity over seeds."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        return mean(self.by_seed.values())

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        seeds = {str(seed): value for seed, value in self.by_seed.items()}
        return {"seeds": seeds, "mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spread:
        return typed(cls({int(seed): value for seed, value in data["seeds"].items()}))


@dataclass(frozen=True)
class Against:
    """Paired difference of the winner to another plan on validation."""

    name: str
    """`trial 3`, or the name of a baseline."""

    cost: Cost
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "cost": asdict(self.cost), **self.difference.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Against:
        cost = typed(Cost(**data["cost"]))
        return typed(cls(data["name"], cost, typed(Difference.from_json(data))))


@dataclass(frozen=True)
class Final:
    """Result of a search: the chosen plan and its metrics on the test part."""

    plan: Plan
    """Chosen plan; empty if no plan beat the linear probe."""

    number: int | None
    """Number of its trial; None for the empty plan."""

    value: float
    """Value on validation with the study's seed."""

    cost: Cost
    test: Mapping[str, float]
    """Metrics of the delivered file on the test part, and `n`, its number of examples."""

    metrics: Mapping[str, float]
    hyperparameters: Mapping[str, float]
    baseline: str = ""
    """Name of the baseline that became this trial; empty for any other trial."""

    values: Spread | None = None
    """Seed → value on validation; None for the empty plan."""

    tests: Spread | None = None
    """Seed → metric on the test part; None for the empty plan."""

    against: tuple[Against, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.plan.choices

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "plan": self.plan.to_json(),
            "label": str(self.plan),
            "value": self.value,
            "cost": asdict(self.cost),
            "test": dict(self.test),
            "empty": self.is_empty,
            "metrics": dict(self.metrics),
            "hyperparameters": dict(self.hyperparameters),
            **self._of_winner(),
        }

    def _of_winner(self) -> dict[str, Any]:
        if self.values is None or self.tests is None:
            return {}
        return {
            "reference": self.baseline,
            "values": self.values.to_json(),
            "tests": self.tests.to_json(),
            "against": [other.to_json() for other in self.against],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Final:
        plain = ("number", "value", "test", "metrics", "hyperparameters")
        return typed(
            cls(
                **{name: checked(data)[name] for name in plain},
                plan=Plan.from_json(data["plan"]),
                cost=typed(Cost(**data["cost"])),
                baseline=data.get("reference", ""),
                values=Spread.from_json(data["values"]) if "values" in data else None,
                tests=Spread.from_json(data["tests"]) if "tests" in data else None,
                against=tuple(map(Against.from_json, data.get("against", ()))),
            )
        )


def rows(values: Mapping[tuple[str, str], Any]) -> list[list[Any]]:
    """(unit, label) → value as a list of `[unit, label, value]`."""
    return [[unit, label, value] for (unit, label), value in values.items()]


def from_rows(listed: list[list[Any]]) -> dict[tuple[str, str], Any]:
    """Inverse of `rows`."""
    return {(unit, label): value for unit, label, value in listed}


def _training_to_json(record: Repeat | Baseline) -> dict[str, Any]:
    folds = {"folds": list(record.folds)} if record.folds else {}
    return {"value": record.value, "metrics": dict(record.metrics), **folds}


def _training_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "value": data["value"],
        "metrics": data.get("metrics", {}),
        "folds": tuple(data.get("folds", ())),
        "seconds": data.get("seconds", 0.0),
    }


def _baseline_from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_training_from_json(data),
        "curve": tuple(data.get("curve", ())),
        "plan": Plan.from_json(data["plan"]),
        "hyperparameters": data["hyperparameters"],
        "test": data["test"],
        "cost": typed(Cost(**data["cost"])),
        "fits": data["fits"],
    }
