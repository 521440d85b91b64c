"""The dry run from Python says what the command says, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune.errors import BudgetError
from autotune.problem.budget import Measure
from autotune.run.report.dry_run import units_sections

MEASURED = {"memory_bytes", "full_finetuning_seconds", "at_most_seconds"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settled(preview: dict[str, Any]) -> dict[str, Any]:
    """All but what is measured anew each time."""
    return {key: value for key, value in preview.items() if key not in MEASURED}


def test_a_preview_is_what_the_dry_run_prints(call):
    how = {"budget": "0.5%", "trials": 4, "epochs": 2, "strategy": "random"}
    options = [word for name, value in how.items() for word in (f"--{name}", value)]
    code, out, _ = call("search", *options, "--dry-run", "--json")
    preview = autotune.preview(**how).to_json()
    assert code == 0 and settled(json.loads(out)) == settled(preview)
    assert json.loads(out).keys() == preview.keys() > MEASURED
    assert list(preview["references"]) == ["probe", "uniform", "random"]


def test_a_module_and_a_data_set_are_previewed_and_stay_as_they_were(
    tiny_network, tiny_task, tmp_path
):
    before = {name: value.clone() for name, value in tiny_network.state_dict().items()}
    preview = autotune.preview(tiny_network, tiny_task, "60%", epochs=2, trials=2)
    assert preview.parts == {"train": 97, "val": 25, "test": 31} and preview.classes == 3
    assert preview.at_most > preview.full_finetuning > 0 and preview.memory > 0
    assert all(preview.budget.fits(b.cost) for b in preview.baselines.values())
    assert all(torch.equal(before[n], v) for n, v in tiny_network.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_every_choice_has_its_cost_and_whether_it_fits(tiny_network, tiny_task):
    preview = autotune.preview(tiny_network, tiny_task, "20%", epochs=1)
    choices = [choice for unit in preview.units for choice in unit.choices]
    assert {choice.fits for choice in choices} == {True, False}
    for choice in choices:
        assert choice.fits == (choice.cost[Measure.PARAMETERS] <= preview.budget.limit)
    assert "first" in preview._repr_html_() and len(repr(preview)) < 500


def test_what_a_search_refuses_a_preview_refuses(tiny_network, tiny_task):
    with pytest.raises(BudgetError):
        autotune.preview(tiny_network, tiny_task, "-1%")


def test_what_is_left_out_is_listed_with_the_reason_and_counted(tiny_network, tiny_task, caplog):
    tiny_network.decoder = torch.nn.Linear(6, 5)  # it never runs
    tiny_network.first.requires_grad_(False)
    with caplog.at_level("INFO", "autotune"):
        preview = autotune.preview(tiny_network, tiny_task, "60%", exclude="norm", head="fc")
    reasons = {part.name: part.reason for part in preview.left_out}
    assert reasons == {"norm": "excluded", "first": "frozen", "decoder": "unused"}
    (units, listed, *_) = units_sections(preview)
    never = sum(part.parameters for part in preview.left_out if part.name != "decoder")
    assert f", {never} of which never change, and 35 that it does not use." in units.text[0]
    assert [row[0] for row in listed.table.rows] == list(reasons)
    assert "35 that it does not use (decoder)" in caplog.text
