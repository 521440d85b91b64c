"""Check before a study that kept values belong to their examples, on shuffled training rows."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.training.prefix.cut import before
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.observation import is_like, tolerance_of

CHECKED_EXAMPLES = 7
"""Number of training examples that are compared; all values of all of them are in memory."""


@torch.no_grad()
def misplaced_value(graph: Graph, network: nn.Module, examples: Tensor) -> str | None:
    """Name of a value whose rows do not move with the examples, or of differing logits, or None.

    Values that can be cached are computed for `examples`, of shape (n, ...), and again for the
    same examples in another order, and the graph's logits are compared with those of `network`.
    """
    nodes = [node for node in graph.seen if graph.sources[node] is node]
    output = graph.sources[graph.output]
    program = before(graph, [*nodes, output], [graph.input])
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    with evaluating(network):
        values, others = program(examples.clone()), program(examples[order])
        logits = logits_of(network(examples[order]))
    tolerance = tolerance_of([*values, logits])
    for node, value, other in zip(nodes, values, others, strict=False):
        if not is_like(value[order], other, tolerance):
            return f"the value of {_place(node)}"
    return None if is_like(values[-1][order], logits, tolerance) else "its logits"


def _place(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name
