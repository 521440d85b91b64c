"""A custom method. `pip install ./examples` registers its name by this entry point:

[project.entry-points."autotune.deltas"]
input_scale = "own_delta:InputScale"
"""

from torch import Tensor, nn

from autotune import Cost, Site, Slot, WeightDelta
from autotune.deltas import cost_of


class InputScale(WeightDelta):
    """W' = W·(1 + gain) with one gain for every input channel (second dimension) of a kernel."""

    paper = "(IA)³ (arXiv 2205.05638), on the inputs of every layer"
    what = "a factor per input channel"
    where = "layers with a kernel"

    def changes(self, site: Site) -> list[Slot]:
        return [slot for slot in site.slots if slot.is_matrix()]

    def count(self, site: Site) -> Cost:
        kernels = [slot.tensor for slot in self.changes(site)]
        return sum((cost_of(kernel.shape[1], kernel.dtype) for kernel in kernels), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return Gain(slot.tensor)


class Gain(nn.Module):
    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(kernel.new_zeros(kernel.shape[1]))

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel * self.gain.view(-1, *[1] * (kernel.ndim - 2))
