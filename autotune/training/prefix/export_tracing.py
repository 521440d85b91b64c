"""Tracing of operators with `torch.export`, for code that `torch.fx` cannot trace."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from autotune.backbones.batch_length import symbolic_length
from autotune.backbones.snapshot import Snapshot
from autotune.deltas.computed import computed_in
from autotune.training.prefix.mode_effects import NORMS
from autotune.training.prefix.mode_switch import (
    ModeArguments,
    ModeSwitch,
    differing_operators,
    module_paths,
)
from autotune.training.prefix.module_tracing import Traced
from autotune.training.prefix.nodes import Root, Untraceable
from autotune.training.prefix.placeholders import OpaqueHead, Placeholders, placeholders


def trace_operators(
    root: Root, examples: Tensor, dependent: Collection[str], *, has_boundaries: bool
) -> Traced:
    """Trace a graph of torch's own operators, valid for any batch size, that reads weights by name.

    Layers whose computation depends on their mode (`dependent`) stay layers. For other modules, a
    trace in each mode gives the arguments of their operators. If the modes have other operators,
    or the layer is a norm, the graph is valid in evaluation mode of these modules alone. With
    `has_boundaries` there are nodes for the first input and output of every module.

    Raises `Untraceable` if the network cannot be exported, or computes weights from others: the
    graph would read the latter, which no delta changes.
    """
    if computed := computed_in(root.network):
        raise Untraceable(f"{computed[0].name} is computed by {computed[0].kind}")
    heads = [path for path, module in root.named_modules() if isinstance(module, OpaqueHead)]
    if heads and not has_boundaries:
        raise Untraceable(f"the head {heads[0]} cannot be one operator")
    layers = [path for path in dependent if not _is_norm(root, path)] if has_boundaries else []
    with placeholders(root, [*layers, *heads], has_boundaries=has_boundaries) as stand_ins:
        program = _exported(root, examples)
        if lost := set(heads) - stand_ins.layers(program.graph):
            raise Untraceable(f"the head {min(lost)} cannot be one operator")
        if blocks := [node for node in program.graph.nodes if node.op == "get_attr"]:
            return _with_blocks(program, root, blocks, dependent, has_boundaries=has_boundaries)
        readers = set(dependent) - stand_ins.layers(program.graph)
        modes: dict[fx.Node, ModeArguments] = {}
        try:
            if switching := {path for path in readers if not _is_norm(root, path)}:
                with _training(root, switching):
                    training = _exported(root, examples)
                modes = differing_operators(training.graph, program.graph, switching)
                program, readers = training, readers - switching
        except Untraceable:
            pass
    return Traced(_Copier(program, root, modes, stand_ins).graph(), frozenset(readers))


def _with_blocks(
    program: ExportedProgram,
    root: Root,
    blocks: Sequence[fx.Node],
    dependent: Collection[str],
    *,
    has_boundaries: bool,
) -> Traced:
    """The graph of a program in which some operators run a block, such as that of `autocast`.

    Blocks are called as they are, so nothing in them can be a placeholder.
    """
    if has_boundaries:
        raise Untraceable("its code has a block of its own, such as that of autocast")
    for node in blocks:
        root.hold_block(str(node.target), getattr(program.graph_module, str(node.target)))
    return Traced(_Copier(program, root, {}, Placeholders(())).graph(), frozenset(dependent))


def _exported(root: Root, examples: Tensor) -> ExportedProgram:
    snapshot = Snapshot(root.network)
    try:
        with warnings.catch_warnings(), torch.enable_grad(), symbolic_length(root):
            warnings.simplefilter("ignore")
            return torch.export.export(
                root, (examples,), dynamic_shapes=({0: Dim.AUTO},), strict=False
            )
    except Exception as error:  # the network's code may raise anything
        raise Untraceable.by(error) from error
    finally:
        snapshot.restore()


@contextmanager
def _training(root: Root, paths: Collection[str]) -> Iterator[None]:
    """Context with these modules in training mode."""
    modules = [root.get_submodule(path) for path in paths]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


def _is_norm(root: Root, path: str) -> bool:
    return isinstance(root.get_submodule(path), NORMS)


class _Copier:
    """Copies an exported graph, with parameters and buffers as attributes of the root."""

    def __init__(
        self,
        program: ExportedProgram,
        root: Root,
        modes: Mapping[fx.Node, ModeArguments],
        stand_ins: Placeholders,
    ) -> None:
        self.program, self.modes, self.stand_ins = program, modes, stand_ins
        signature = program.graph_signature
        self.names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for at, name in enumerate(signature.inputs_to_lifted_tensor_constants):
            self.names[name] = f"_constant_{at}"
            constant = signature.inputs_to_lifted_tensor_constants[name]
            root.hold(self.names[name], program.constants[constant])
        self.tied = _tied_names(root)
        self.attributes: dict[str, fx.Node] = {}
        self.copies: dict[fx.Node, fx.Node] = {}

    def graph(self) -> fx.Graph:
        """The copy, which has one output."""
        graph = fx.Graph()
        for node in self.program.graph.nodes:
            if node.op == "output":
                (output,) = node.args[0] if len(node.args[0]) == 1 else (None,)
                if output is None:
                    raise Untraceable("it returns several tensors")
                graph.output(self.copies[output])
            elif node.op == "placeholder" and node.name in self.names:
                self.copies[node] = self._attribute(graph, self.names[node.name])
            else:
                self.copies[node] = self._copy(graph, node)
        return graph

    def _attribute(self, graph: fx.Graph, name: str) -> fx.Node:
        for same in self.tied.get(name, [name]):
            self.attributes[same] = graph.create_node("get_attr", same)
        return self.attributes[name]

    def _copy(self, graph: fx.Graph, node: fx.Node) -> fx.Node:
        """Copy of an operator, or what a placeholder stands for."""
        known = {**self.copies}
        for read in node.all_input_nodes:
            if len(same := self.tied.get(self.names.get(read.name, ""), ())) > 1:
                known[read] = self.attributes[_name_inside(node, same)]
        if (copy := self.stand_ins.copied(node, graph, known)) is not None:
            return copy
        if (mode := self.modes.get(node)) is None:
            return graph.node_copy(node, known.__getitem__)
        switch = ModeSwitch(node.target, mode.path)  # type: ignore[arg-type]
        both = (node.args, dict(node.kwargs), mode.args, mode.kwargs)
        args = fx.node.map_arg(both, known.__getitem__)
        return graph.create_node("call_function", switch, args, {}, name=node.name)


def _tied_names(root: Root) -> dict[str, list[str]]:
    """Name → all names of the same tensor, for parameters and buffers that have several."""
    names: dict[int, list[str]] = {}
    for name, tensor in (
        *root.named_parameters(remove_duplicate=False),
        *root.named_buffers(remove_duplicate=False),
    ):
        names.setdefault(id(tensor), []).append(name)
    return {name: same for same in names.values() if len(same) > 1 for name in same}


def _name_inside(node: fx.Node, names: Sequence[str]) -> str:
    """The name of a tied tensor in the module whose code reads it.

    `torch.export` has one input for a tied tensor. A head that is tied to an embedding is replaced,
    the embedding is not, so each must read the tensor by its own name.
    """
    by_owner = {name.rpartition(".")[0]: name for name in names}
    return next((by_owner[p] for p in reversed(module_paths(node)) if p in by_owner), names[0])
