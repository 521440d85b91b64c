"""The example of a method of one's own obeys the laws, and its package names it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autotune.backbones.units import find_units
from autotune.deltas.site import Site
from autotune.utils.registry import Registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def delta():
    return runpy.run_path(str(EXAMPLES / "own_delta.py"))["InputScale"]()


@pytest.fixture
def site(tiny_backbone) -> Site:
    tiny_backbone.network.eval().requires_grad_(False)
    unit = next(u for u in find_units(tiny_backbone, "tree").units if u.name == "first")
    return Site.of(tiny_backbone.network, unit)


def test_it_is_zero_at_start_and_costs_what_it_says(delta, site):
    x, predicted = torch.randn(4, 1, 6, 6), delta.count(site)
    before = site.network(x)
    delta.attach(site)
    assert torch.equal(site.network(x), before)
    assert predicted.parameters == sum(p.numel() for p in delta.parameters()) == 4
    assert predicted.bytes == sum(t.numel() * t.element_size() for t in delta.tensors().values())


def test_merged_the_unit_computes_what_both_did_and_detached_what_it_did_alone(delta, site):
    x = torch.randn(4, 1, 6, 6)
    before, state = site.network(x), {k: t.clone() for k, t in site.network.state_dict().items()}
    delta.attach(site)
    site.network(x).square().sum().backward()
    with torch.no_grad():
        for parameter in delta.parameters():
            assert parameter.grad.all()
            parameter.copy_(torch.randn(parameter.shape))
    together, merged = site.network(x), [(s, s.tensor.clone()) for s in delta.changes(site)]
    delta.detach()
    assert torch.equal(site.network(x), before)
    assert site.network.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[k]) for k, t in site.network.state_dict().items())
    for slot, tensor in merged:
        slot.frozen.copy_(tensor)
    torch.testing.assert_close(site.network(x), together)
    assert not torch.equal(together, before)


def test_the_example_is_short():
    assert len((EXAMPLES / "own_delta.py").read_text().splitlines()) < 40


@pytest.mark.install
def test_installed_it_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*built, str(EXAMPLES)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("autotune_own_delta-*.whl")
    target = str(tmp_path / "site")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    monkeypatch.syspath_prepend(target)
    table = Registry("delta", {}, group="autotune.deltas", base="autotune.deltas.base:Delta")
    assert table.names() == ("input_scale",)
    assert table.package("input_scale") == "autotune-own-delta"
    assert table.load("input_scale").__name__ == "InputScale"
