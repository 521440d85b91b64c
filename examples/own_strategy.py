"""A custom strategy from any Optuna sampler; this one changes one parameter of the best trial.

`BudgetedSampler` fits each proposal into the budget, so the sampler does not need to know it.
"""

import random
from typing import Any

import optuna

import autotune
from autotune.problem import Job
from autotune.study.strategies import (
    BudgetedSampler,
    hyperparameters_of,
    plan_of,
    search_space,
)


class Mutate(optuna.samplers.RandomSampler):
    """Copies the best trial except one parameter, which is random, as are the first two trials."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.chance = random.Random(seed)

    def sample_relative(self, study: optuna.Study, trial: Any, space: Any) -> dict[str, Any]:
        if trial.number < 2:
            return {}
        changed = self.chance.choice(sorted(space))
        best = study.best_trial.params
        return {name: value for name, value in best.items() if name in space and name != changed}


def main(trials: int = 6, epochs: int = 5) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setup = autotune.prepare("builtin:digits", "builtin:digits-rotated", "1%", epochs=epochs)
    problem = setup.problem
    sampler = BudgetedSampler(Mutate, problem, setup.grids, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask(search_space(problem, setup.grids))
        plan = plan_of(problem, trial.params)
        job = Job(f"trial {trial.number}", plan, hyperparameters_of(trial.params), seed=0)
        *_, last = setup.engine(job)
        study.tell(trial, last.value)
        cost = problem.cost(plan).parameters
        print(f"{last.value:.3f} with parameters {cost:,} of {problem.room:,}: {plan}")
    setup.engine.close()
    print(f"Best: {study.best_value:.3f}, {plan_of(problem, study.best_params)}")


if __name__ == "__main__":
    main()
