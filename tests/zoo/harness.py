"""What must hold for every network: what was trained is what is delivered, no more, no less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from autotune.backbones.forward import logits_of
from autotune.deltas import METHODS as METHODS_TABLE
from autotune.deltas.apply import bare_head
from autotune.deltas.artifact import from_bytes
from autotune.deltas.attach import Deltas
from autotune.deltas.surgery import exchanged
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, written
from autotune.errors import AutotuneError, ExportError, MergeError
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Plan
from autotune.run.settings import read_settings
from autotune.session.setup import Setup, prepare_search, released
from autotune.training.prefix.cut import before, cut
from autotune.training.prefix.nodes import Untraceable
from autotune.training.prefix.prefix import Keeping

METHODS = [
    *("subtune", "lowrank", "scale", "reparam", "xs", "sparse", "res_adapter"),
    *("res_prefix", "res_prompt", "skip", "side", "bypass"),
]
RATES = {**{f"lr:{name}": 1e-3 for name in ("head", *METHODS)}, "weight_decay": 0.0}
NONE, MEMORY = Keeping(), Keeping(memory=2 * 10**9)


@dataclass(frozen=True)
class Case:
    """A network with inputs of its own kind, of shape (n, ...)."""

    make: Callable[[], nn.Module]
    inputs: Tensor
    classes: int = 3
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """Figures of a network, and what did not hold."""

    seconds_to_trace: float = 0.0
    plans: int = 0
    """Number of plans that were trained."""

    beyond: float = 0.0
    """Largest share of a forward pass behind a cut, less the share that the plan's depth allows."""

    cached: float = 0.0
    """Largest difference of the loss with and without a cache."""

    delivered: float = 0.0
    """Largest difference between the loss in training and that of the delivered file."""

    merged: float = 0.0
    """Largest difference between the loss in training and in the user's own architecture."""

    refused: list[str] = field(default_factory=list)
    """Merges that were refused, each in one line."""

    faults: list[str] = field(default_factory=list)


def examine(case: Case, *, plans: int | None = None) -> Outcome:
    """Train plans on a network with and without a cache, deliver them, and compare the losses.

    Plans are the empty one, one unit, all units, and each method once; at most `plans` of them.
    """
    outcome = Outcome()
    torch.manual_seed(0)
    network = case.make()
    state = everything_of(network)
    with prepared(network, case, NONE) as plain, prepared(network, case, MEMORY) as kept:
        began = time.perf_counter()
        kept.engine.prefix.look(kept.task.train, ["zoo"])
        outcome.seconds_to_trace = time.perf_counter() - began
        kept.engine.prefix.forget()
        for plan in plans_of(plain)[:plans]:
            outcome.plans += 1
            try:
                compare(plan, case, (plain, kept), outcome)
                outcome.beyond = max(outcome.beyond, share_beyond(plan, network, kept))
            except AutotuneError as error:
                outcome.faults.append(f"{plan}: {type(error).__name__}: {error}")
    if everything_of(network) != state:
        outcome.faults.append("the network is not as it was before")
    return outcome


@contextmanager
def prepared(network: nn.Module, case: Case, keeping: Keeping) -> Iterator[Setup]:
    labels = np.arange(len(case.inputs)) % case.classes
    defaults = {"epochs": 1, "batch_size": 8, "space": "any", "budget": "100%", "device": "cpu"}
    settings = read_settings({**defaults, **case.settings})
    data = (case.inputs.numpy(), labels)
    with released(prepare_search(settings, network, data)) as setup:
        setup.engine.keeping = keeping
        setup.engine.to("cpu")
        yield setup


def plans_of(setup: Setup) -> list[Plan]:
    """The empty plan, one unit in the middle, all units, and each method once."""
    blocks = [
        unit.name
        for unit in setup.units
        if not unit.levels and setup.problem.choices.get(unit.name)
    ]
    choices = setup.problem.choices
    whole = {name: choices[name][0] for name in blocks}
    plans = [Plan()]
    if blocks:
        middle = blocks[len(blocks) // 2]
        plans += [Plan({middle: whole[middle]}), Plan(whole)]
    for method in METHODS:
        places = [(u, c) for u, options in choices.items() for c in options if c.names == (method,)]
        if places:
            unit, _ = places[len(places) // 2]
            smallest = next(choice for name, choice in places if name == unit)
            plans.append(Plan({unit: smallest}))
    return list(dict.fromkeys(plans))


def compare(plan: Plan, case: Case, setups: tuple[Setup, Setup], outcome: Outcome) -> None:
    """Losses of a plan without and with a cache, of its file, and of the merged network."""
    plain, kept = (trained(setup, plan) for setup in setups)
    loss = plain.metrics["loss"]
    outcome.cached = max(outcome.cached, abs(kept.metrics["loss"] - loss))
    content, (setup, _) = plain.artifact, setups
    assert content is not None and setup.task.val is not None
    file_loss = setup.engine.measure(content, setup.task.val)["loss"]
    outcome.delivered = max(outcome.delivered, abs(file_loss - loss))
    artifact = from_bytes(content, "the delta file")
    subject = Subject(setup.backbone, artifact, setup.settings, examples=case.inputs[:4])
    if all(METHODS_TABLE.load(name).mergeable for name in plan.methods()):
        try:
            difference = abs(merged_loss(subject, case, setup) - loss)
        except (MergeError, ExportError) as error:  # a refusal in one line
            outcome.refused.append(f"{plan}: {error}")
        else:
            outcome.merged = max(outcome.merged, difference)


def trained(setup: Setup, plan: Plan) -> Progress:
    *_, last = setup.engine(Job("zoo", plan, RATES, seed=0))
    return last


def merged_loss(subject: Subject, case: Case, setup: Setup) -> float:
    """Loss on validation of a new network of the user's with the merged tensors."""
    torch.manual_seed(1)
    network = case.make()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "merged"
        written(FORMATS.load("merged")(), subject, file)
        tensors = load_file(file)
    resize_head(network, subject, tensors)
    network.load_state_dict(tensors, strict=True)
    val = setup.task.val
    assert val is not None
    with torch.no_grad():
        logits = logits_of(network.eval()(val.inputs.to(case.inputs.dtype)))
    return float(F.cross_entropy(logits.float(), torch.from_numpy(val.labels)))


def resize_head(network: nn.Module, subject: Subject, tensors: dict[str, Tensor]) -> None:
    """Give the user's network a head with as many outputs as the task has classes."""
    path = subject.backbone.head
    owner, _, name = path.rpartition(".")
    user = replace(subject.backbone, network=network)
    setattr(network.get_submodule(owner), name, bare_head(user, subject.artifact))


def share_beyond(plan: Plan, network: nn.Module, setup: Setup) -> float:
    """Share of the FLOPs behind the cut for a plan, less what the plan's depth allows."""
    if not plan.choices:
        return 0.0
    inputs, path = setup.task.train.inputs[:4], setup.backbone.head
    head = setup.backbone.new_head(len(setup.task.classes))
    with exchanged(network, path, head):
        return _share_beyond(plan, network, setup, inputs)


def _share_beyond(plan: Plan, network: nn.Module, setup: Setup, inputs: Tensor) -> float:
    deltas = Deltas(network, setup.units, plan, seed=0, flow=setup.units.flow)
    try:
        deltas.train()
        modules = [module for site in deltas.sites.values() for module in site.modules]
        with torch.no_grad():
            first, total = flops_before(network, modules, inputs)
            graphs = setup.engine.prefix._graphs or []
            cuts = [flops_behind(graph, inputs) for graph in graphs]
            behind = min([n for n in cuts if n is not None], default=None)
    finally:
        deltas.detach()
    if not total:
        return 0.0
    return (total if behind is None else behind) / total - (1 - first / total)


def flops_before(network: nn.Module, modules: list[nn.Module], x: Tensor) -> tuple[int, int]:
    """FLOPs of a forward pass until the first of these modules is called, and all of them."""
    seen: list[int] = []
    with FlopCounterMode(display=False) as counter:
        hooks = [
            m.register_forward_pre_hook(lambda *_: seen.append(counter.get_total_flops()))
            for m in modules
        ]
        network(x)
        for hook in hooks:
            hook.remove()
        total = counter.get_total_flops()
    return (seen[0] if seen else 0), total


def flops_behind(graph: Any, x: Tensor) -> int | None:
    try:
        network_cut = cut(graph)
    except Untraceable:
        return None
    live = before(graph, network_cut.live, [graph.input])(x)
    with FlopCounterMode(display=False) as counter:
        network_cut.behind(*live)
    return int(counter.get_total_flops())


def everything_of(network: nn.Module) -> Any:
    """Tensors in bytes, flags, modes, classes and hooks of a network."""
    named = (*network.named_parameters(remove_duplicate=False),)
    named += (*network.named_buffers(remove_duplicate=False),)
    tensors = {name: (bytes_of(tensor), id(tensor)) for name, tensor in named}
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    modules = {
        name: (
            type(module),
            module.training,
            list(module._forward_hooks),
            list(module._forward_pre_hooks),
        )
        for name, module in network.named_modules()
    }
    return tensors, flags, modules


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
