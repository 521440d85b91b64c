"""The one call from Python, on a network and a task given as objects."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune.deltas.artifact import read_artifact
from autotune.errors import BackboneError, ConfigError, RunError
from autotune.study.reader import Records

Search = Callable[..., autotune.Study]
GIVEN: dict[str, Any] = {"budget": "60%", "trials": 2, "epochs": 2, "bnstats": "off"}
GIVEN |= {"strategy": "tpe"}


@pytest.fixture
def search(tiny_network: Any, tiny_task: Any, tmp_path: Path) -> Search:
    """A small search on the tiny network; settings can be given."""

    def run(name: str = "run", **settings: Any) -> autotune.Study:
        out = str(tmp_path / name)
        return autotune.search(tiny_network, tiny_task, out=out, **{**GIVEN, **settings})

    return run


def accuracy(network: Any, part: Any) -> float:
    with torch.no_grad():
        return float((network(part.inputs).argmax(1).numpy() == part.labels).mean())


@pytest.fixture(
    scope="module",
    params=[*(pytest.param(n, marks=pytest.mark.slow) for n in ("on", "off")), "auto"],
)
def searched(
    request: pytest.FixtureRequest,
    new_tiny_network: Callable[[], torch.nn.Module],
    tiny_task: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> autotune.Study:
    """An ended search for every way to estimate statistics; tests only read it."""
    out = str(tmp_path_factory.mktemp("searched") / "run")
    settings = {**GIVEN, "bnstats": request.param}
    return autotune.search(new_tiny_network(), tiny_task, out=out, **settings)


def test_the_delivered_file_reaches_what_the_study_says(
    searched: autotune.Study, tiny_network: Any, tiny_task: Any
) -> None:
    tuned = autotune.load_adapted(tiny_network, searched.best.artifact)
    assert accuracy(tuned, tiny_task.test) == pytest.approx(searched.best.test["accuracy"])
    if searched.best.number is not None:
        assert accuracy(tuned, tiny_task.val) == pytest.approx(searched.best.value)


def test_statistics_are_in_the_file_when_they_were_estimated_and_only_then(
    searched: autotune.Study,
) -> None:
    buffers = read_artifact(searched.best.artifact).part("buffer")
    assert searched.preparation is not None
    assert bool(buffers) == (searched.preparation.bnstats == "on")
    if searched.settings.bnstats != "auto":
        assert searched.preparation.bnstats == searched.settings.bnstats


def test_the_network_is_given_back_as_it_was(search: Search, tiny_network: Any) -> None:
    tiny_network.train()
    tiny_network.first.conv.weight.requires_grad_(False)
    before = copy.deepcopy(tiny_network)
    search(bnstats="on")
    after, state = tiny_network.state_dict(), before.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], state[name]) for name in state)
    flags = [p.requires_grad for p in before.parameters()]
    assert [p.requires_grad for p in tiny_network.parameters()] == flags
    modes = [module.training for module in before.modules()]
    assert [module.training for module in tiny_network.modules()] == modes


@pytest.mark.slow
def test_a_run_from_objects_is_resumed_with_the_same_objects(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    folder = search().folder.path
    with pytest.raises(RunError, match="began from Python objects"):
        autotune.resume(folder, trials=4)
    study = autotune.resume(folder, tiny_network, tiny_task, trials=4)
    assert len([trial for trial in study.trials if not trial.baseline]) == 4
    assert study.state == "complete"


@pytest.mark.slow
def test_a_run_is_not_resumed_on_another_network(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    folder = search().folder.path
    with torch.no_grad():
        tiny_network.first.conv.weight.add_(1)
    with pytest.raises(RunError, match="backbone's fingerprint"):
        autotune.resume(folder, tiny_network, tiny_task, trials=4)
    with pytest.raises(ConfigError, match="may change"):
        autotune.resume(folder, tiny_network, tiny_task, epochs=4)


@pytest.mark.slow
def test_a_run_with_a_setting_under_its_former_name_is_resumed(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    folder = search(fuse_batchnorm=True).folder
    config = folder.config.read_text().replace("fuse_batchnorm:", "fold:")
    folder.config.write_text(config)
    stored = Records(folder, None, is_writable=True).study
    identity = dict(stored.user_attrs["identity"])
    fused = identity.pop("fuse_batchnorm")
    stored.set_user_attr("identity", {**identity, "fold": fused})
    study = autotune.resume(folder.path, tiny_network, tiny_task, trials=3)
    assert study.state == "complete"
    assert study.settings.fuse_batchnorm


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_value_of_a_renamed_setting(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    folder = search().folder
    config = folder.config.read_text().replace("fuse_batchnorm: false", "fold: true")
    folder.config.write_text(config)
    with pytest.raises(RunError, match="differs in fuse_batchnorm"):
        autotune.resume(folder.path, tiny_network, tiny_task, trials=3)


@pytest.mark.slow
def test_the_configuration_is_written_where_it_changes_alone(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    folder = search().folder
    first = folder.config.stat().st_ino
    autotune.resume(folder.path, tiny_network, tiny_task)
    assert folder.config.stat().st_ino == first
    autotune.resume(folder.path, tiny_network, tiny_task, trials=3)
    assert autotune.Study(folder.path).settings.trials == 3


@pytest.mark.slow
def test_folds_score_the_plans_and_the_winner_is_trained_on_all_of_them(search: Search) -> None:
    study = search(folds=3)
    complete = [trial for trial in study.trials if trial.is_complete]
    assert complete
    assert all(len(trial.curve) == 3 for trial in complete)
    assert study.best.artifact.is_file()
    assert study.best.test["n"] == 31


@pytest.mark.slow
def test_a_budget_in_bytes_pays_for_the_prepared_statistics(search: Search) -> None:
    study = search(budget="1kB", bnstats="on")
    stored = read_artifact(study.best.artifact).tensors
    bytes_of = dict.fromkeys(("delta", "buffer", "head"), 0)
    for name, tensor in stored.items():
        bytes_of[name.partition("/")[0]] += tensor.numel() * tensor.element_size()
    assert study.problem.fixed.bytes == bytes_of["buffer"] > 0
    assert bytes_of["delta"] + bytes_of["buffer"] <= 1000


@pytest.mark.slow
def test_a_counted_head_is_taken_off_the_limit(search: Search) -> None:
    free, counted = search("free"), search("counted", count_head=True)
    assert free.problem.budget.limit == counted.problem.budget.limit
    assert free.problem.room - counted.problem.room == 4 * 3 + 3


@pytest.mark.slow
def test_an_ended_search_is_gone_on_with_at_no_cost_and_has_no_fewer_trials(
    search: Search, tiny_network: Any, tiny_task: Any
) -> None:
    study = search()
    again = autotune.resume(study.folder.path, tiny_network, tiny_task)
    assert again.seconds == study.seconds and again.final == study.final
    with pytest.raises(ConfigError, match="2 were begun, got 1"):
        autotune.resume(study.folder.path, tiny_network, tiny_task, trials=1)


def test_what_cannot_be_called_is_no_callback(search: Search) -> None:
    with pytest.raises(ConfigError, match="3 cannot be called"):
        search(callbacks=[3])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_plans_and_values(search: Search) -> None:
    first, second = search("first", trials=4), search("second", trials=4)
    assert [t.plan for t in first.trials] == [t.plan for t in second.trials]
    assert [t.value for t in first.trials] == [t.value for t in second.trials]
    assert first.best.test == second.best.test


@pytest.mark.slow
def test_a_reference_that_fails_is_left_out_and_the_search_continues(
    search: Search, tiny_network: Any
) -> None:
    def refuse(module: Any, args: Any) -> None:
        if module.training:
            raise ValueError("this layer cannot be trained")

    tiny_network.second.conv.register_forward_pre_hook(refuse)
    study = search(trials=6)
    assert "uniform" not in study.baselines
    assert "probe" in study.baselines
    assert study.state == "complete"


def test_a_head_that_something_of_its_width_follows_is_refused(
    search: Search, tiny_network: Any
) -> None:
    behind = torch.nn.LayerNorm(5, elementwise_affine=False)
    tiny_network.fc = torch.nn.Sequential(torch.nn.Linear(4, 5), behind)
    with pytest.raises(BackboneError, match="Name the last layer with --head"):
        search()


def test_the_network_is_given_back_also_when_the_search_is_refused(
    search: Search, tiny_network: Any
) -> None:
    tiny_network.train()
    before = copy.deepcopy(tiny_network.state_dict())
    with pytest.raises(autotune.AutotuneError, match="Raise the budget"):
        search(budget="0.001kB")
    assert all(torch.equal(t, before[name]) for name, t in tiny_network.state_dict().items())
    assert tiny_network.training


@pytest.mark.slow
@pytest.mark.parametrize("second", ["cost", "latency"])
def test_every_point_of_a_front_is_reproduced_by_its_file(
    search: Search, tiny_network: Any, tiny_task: Any, second: str
) -> None:
    study = search(objective=f"accuracy,{second}", strategy="nsga2", trials=8)
    assert study.front
    costs = [p.cost.parameters if second == "cost" else p.metrics[second] for p in study.front]
    assert costs == sorted(set(costs))
    for point in study.front:
        tuned = autotune.load_adapted(tiny_network, study.folder.delta(point.number))
        assert accuracy(tuned, tiny_task.val) == pytest.approx(point.value)
        assert read_artifact(study.folder.delta(point.number)).plan == point.plan
        autotune.detach(tuned)
