"""Tracing of operators with `torch.export`, for code that `torch.fx` cannot trace."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from autotune.deltas.computed import computed_in
from autotune.training.prefix.module_tracing import Traced, recording_mode_reads
from autotune.training.prefix.nodes import Root, Untraceable


def trace_operators(root: Root, examples: Tensor) -> Traced:
    """Trace a graph of torch's own operators, valid for any batch size, that reads weights by name.

    Raises `Untraceable` if the network cannot be exported, or computes weights from others: the
    graph would read the latter, which no delta changes.
    """
    if computed := computed_in(root.network):
        raise Untraceable(f"{computed[0].name} is computed by {computed[0].kind}")
    try:
        with (
            recording_mode_reads(root) as mode_readers,
            warnings.catch_warnings(),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            program = torch.export.export(
                root, (examples,), dynamic_shapes=({0: Dim.AUTO},), strict=False
            )
    except Exception as error:  # the network's code may raise anything
        raise Untraceable.by(error) from error
    return Traced(_as_graph(program, root), frozenset(mode_readers))


def _as_graph(program: ExportedProgram, root: Root) -> fx.Graph:
    """The graph with parameters and buffers as attributes of the root, and one output."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for at, name in enumerate(signature.inputs_to_lifted_tensor_constants):
        names[name] = f"_constant_{at}"
        constant = signature.inputs_to_lifted_tensor_constants[name]
        root.hold(names[name], program.constants[constant])
    tied = _tied_names(root)
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    attributes: dict[str, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            (output,) = node.args[0] if len(node.args[0]) == 1 else (None,)
            if output is None:
                raise Untraceable("it returns several tensors")
            graph.output(env[output])
        elif node.op == "placeholder" and node.name in names:
            for name in tied.get(names[node.name], [names[node.name]]):
                attributes[name] = graph.create_node("get_attr", name)
            env[node] = attributes[names[node.name]]
        else:
            known = {**env}
            for read in node.all_input_nodes:
                if len(same := tied.get(names.get(read.name, ""), ())) > 1:
                    known[read] = attributes[_name_inside(node, same)]
            env[node] = graph.node_copy(node, known.__getitem__)
    return graph


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
    stack = [path for path, _ in reversed(node.meta.get("nn_module_stack", {}).values())]
    by_owner = {name.rpartition(".")[0]: name for name in names}
    return next((by_owner[path] for path in stack if path in by_owner), names[0])
