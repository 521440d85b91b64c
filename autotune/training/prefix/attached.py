"""What is on a network now, by its graph: which nodes train or change, where paths are put on."""

from __future__ import annotations

from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from autotune.deltas.paths import IDLE, Touch, touch_of
from autotune.training.prefix.graph import Graph, hooks_of
from autotune.training.prefix.nodes import Untraceable, given, taken

HEED = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RReLU,
)
"""Layers of torch that compute something else in training."""


class Attached:
    """Deltas, head and modes, as they are on a graph's network now.

    Raises `Untraceable` where something is on it that the graph has no place for.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.modules = dict(graph.root.named_modules())
        self.layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        self.hooks = {p: h for p, m in self.modules.items() if (h := self._new_hooks(m))}
        """Path → hooks that came after the graph; none of those that do nothing."""

        self.native = {path for path in self.hooks if self._runs_natively(path)}
        """Layers whose own call alone respects what is on them."""

        self.touches = self._touches()
        """(`taken` or `given`, path) → what deltas do there."""

        self._refuse_modes()

    def is_touched(self, node: fx.Node) -> bool:
        """Whether a node itself trains, or gives something else than on the frozen network."""
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = self.modules[path]
            trains = name in owner._parameters and _trains(owner._parameters[name])
            return trains or parametrize.is_parametrized(owner, name)
        if node.op != "call_module":
            return False
        path = str(node.target)
        if path in self.native or any(hooked.startswith(f"{path}.") for hooked in self.hooks):
            return True
        return any(_is_changed(module) for module in self.modules[path].modules())

    def _new_hooks(self, module: nn.Module) -> list[Any]:
        hooks = hooks_of(module)
        own = self.graph.own_hooks(module)
        return [hook for hook in hooks if hook not in own and touch_of(hook) is not IDLE]

    def _runs_natively(self, path: str) -> bool:
        is_strange = any(touch_of(hook) is None for hook in self.hooks[path])
        has_own = bool(self.graph.own_hooks(self.modules[path]))
        return path in self.layers and (is_strange or has_own)

    def _touches(self) -> dict[tuple[Any, str], list[Touch]]:
        found: dict[tuple[Any, str], list[Touch]] = {}
        for path, hooks in self.hooks.items():
            if path in self.native or _is_inside(path, self.layers):
                continue
            if path not in self.graph.boundaries:
                raise Untraceable(f"{path} has a hook, and is no part of its graph")
            for hook in hooks:
                touch = touch_of(hook)
                if touch is None:
                    raise Untraceable(f"{path} has a hook of another kind")
                kind = taken if touch.is_input else given
                found.setdefault((kind, path), []).append(touch)
        return found

    def _refuse_modes(self) -> None:
        for path in self.graph.heeding:
            if self.modules[path].training:
                raise Untraceable(f"{path} heeds its mode, and trains")
        if self.graph.is_exported:  # which has no layers that could be in another mode
            for path, module in self.modules.items():
                if module.training and isinstance(module, HEED):
                    raise Untraceable(f"{path} trains, and the graph is that of evaluation")


def _is_changed(module: nn.Module) -> bool:
    """Whether a module trains, or computes something else than in evaluation."""
    trains = any(map(_trains, module._parameters.values()))
    return trains or parametrize.is_parametrized(module) or (module.training and _heeds(module))


def _trains(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _heeds(module: nn.Module) -> bool:
    """Whether a layer may compute something else in training; all may that are not torch's."""
    return isinstance(module, HEED) or not type(module).__module__.startswith("torch.nn")


def _is_inside(path: str, layers: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in layers for n in range(1, len(parts)))
