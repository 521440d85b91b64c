"""Tracing of operators with `torch.export`, for code that `torch.fx` cannot trace."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from autotune.training.prefix.module_tracing import Traced, recording_mode_reads
from autotune.training.prefix.nodes import Root, Untraceable


def trace_operators(root: Root, examples: Tensor) -> Traced:
    """Trace a graph of torch's own operators, valid for any batch size, that reads weights by name.

    Raises `Untraceable` if the network cannot be exported.
    """
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
    """Graph of a program with parameters and buffers as attributes of the root, and one output."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for at, name in enumerate(signature.inputs_to_lifted_tensor_constants):
        names[name] = f"_constant_{at}"
        constant = signature.inputs_to_lifted_tensor_constants[name]
        root.hold(names[name], program.constants[constant])
    graph, env = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in program.graph.nodes:
        if node.op == "output":
            (output,) = node.args[0] if len(node.args[0]) == 1 else (None,)
            if output is None:
                raise Untraceable("it returns several tensors")
            graph.output(env[output])
        elif node.op == "placeholder" and node.name in names:
            env[node] = graph.create_node("get_attr", names[node.name])
        else:
            env[node] = graph.node_copy(node, env.__getitem__)
    return graph
