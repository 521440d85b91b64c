"""Effects of attached deltas on a graph: nodes that train or change, and hooks of paths."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from autotune.deltas.paths import IDLE, Touch, touch_of
from autotune.training.prefix.graph import Graph, computing, hooks_of
from autotune.training.prefix.mode_switch import ModeSwitch
from autotune.training.prefix.nodes import Untraceable, module_input, module_output


class Attached:
    """Deltas, head and modes that the network of a graph has at present.

    Raises `Untraceable` if the graph has no node for one of them.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.modules = dict(graph.root.named_modules())
        self.dependent = {self.modules[path] for path in graph.dependent}
        """Modules whose computation depends on their mode."""

        self.layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        self.hooks = {p: h for p, m in self.modules.items() if (h := self._new_hooks(m))}
        """Path → hooks added since the graph was traced, except those without an effect."""

        self.native = {path for path in self.hooks if self._runs_natively(path)}
        """Paths of layers that must be called as modules, so that their hooks run."""

        self.touches = self._touches()
        """(`module_input` or `module_output`, path) → effects of deltas there."""

        self._refuse_modes()

    def is_touched(self, node: fx.Node) -> bool:
        """Whether a node trains or computes something different from the frozen network."""
        if isinstance(node.target, ModeSwitch):
            return bool(self.modules[node.target.path].training)
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = self.modules[path]
            trains = name in owner._parameters and _trains(owner._parameters[name])
            return trains or self._is_computed_anew(owner)
        if node.op != "call_module":
            return False
        path = str(node.target)
        if path in self.native or any(hooked.startswith(f"{path}.") for hooked in self.hooks):
            return True
        return any(map(self._is_changed, self.modules[path].modules()))

    def _is_changed(self, module: nn.Module) -> bool:
        """Whether a module trains, or computes something different from the frozen network."""
        trains = any(map(_trains, module._parameters.values()))
        differs = module.training and module in self.dependent
        return trains or differs or self._is_computed_anew(module)

    def _is_computed_anew(self, module: nn.Module) -> bool:
        """Whether a module has other parametrizations than when it was traced."""
        return computing(module) != self.graph.own_parametrizations(module)

    def _new_hooks(self, module: nn.Module) -> list[Any]:
        hooks = hooks_of(module)
        traced = self.graph.own_hooks(module)
        return [hook for hook in hooks if hook not in traced and touch_of(hook) is not IDLE]

    def _runs_natively(self, path: str) -> bool:
        has_foreign = any(touch_of(hook) is None for hook in self.hooks[path])
        has_own = bool(self.graph.own_hooks(self.modules[path]))
        return path in self.layers and (has_foreign or has_own)

    def _touches(self) -> dict[tuple[Any, str], list[Touch]]:
        touches: dict[tuple[Any, str], list[Touch]] = {}
        for path, hooks in self.hooks.items():
            if path in self.native or _is_inside(path, self.layers):
                continue
            if path not in self.graph.boundaries:
                raise Untraceable(f"{path} has a hook but is not part of the graph")
            for hook in hooks:
                touch = touch_of(hook)
                if touch is None:
                    raise Untraceable(f"{path} has a hook that is not a delta's")
                kind = module_input if touch.is_input else module_output
                touches.setdefault((kind, path), []).append(touch)
        return touches

    def _refuse_modes(self) -> None:
        for path in self.graph.mode_readers:
            if self.modules[path].training:
                raise Untraceable(f"{path} is in training mode, the graph in evaluation mode")


def _trains(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _is_inside(path: str, layers: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in layers for n in range(1, len(parts)))
