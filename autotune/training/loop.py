"""Training and evaluation: AdamW with a cosine schedule and one learning rate per method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.forward import logits_of
from autotune.backbones.precision import TUNABLE, widened
from autotune.deltas.seeding import set_seed
from autotune.errors import TrialError
from autotune.problem.job import EPOCHS
from autotune.tasks.loading import Feed, generator_of
from autotune.tasks.metrics import measure
from autotune.utils import interrupts
from autotune.utils.timings import spent, timed


@dataclass(frozen=True)
class Recipe:
    """Settings that all trainings of a study share."""

    epochs: int = EPOCHS
    batch_size: int = 32
    augment: str = "none"
    metric: str = "accuracy"
    device: str = "cpu"
    precision: str = "auto"
    """`float32` (no autocast), `bfloat16`, or `auto`: bfloat16 on a GPU, no autocast on the CPU."""

    layout: str = "auto"
    """Memory format of images; `auto`: `channels_last` on a GPU, `contiguous` on the CPU."""

    fuse_batchnorm: bool = False
    """Whether frozen batch norm is fused into frozen convolutions, which changes rounding."""

    @property
    def memory_format(self) -> torch.memory_format:
        is_last = self.layout == "channels_last" or (self.layout == "auto" and self.device != "cpu")
        return torch.channels_last if is_last else torch.contiguous_format

    def suited(self, network: nn.Module) -> Recipe:
        """The recipe without automatic autocast for a network that is not in float32 itself."""
        dtypes = {p.dtype for p in network.parameters() if p.dtype in TUNABLE}
        if self.precision != "auto" or dtypes <= {torch.float32}:
            return self
        return replace(self, precision="float32")

    def autocast(self) -> Any:
        """Autocast context of the forward pass: by default bfloat16 on a GPU, none on the CPU."""
        return autocast(torch.device(self.device), self.precision)


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that share a learning rate."""

    name: str
    parameters: Sequence[nn.Parameter]
    rate: float


@dataclass(frozen=True, eq=False)
class Epoch:
    """Result of one epoch."""

    number: int
    """Number of the epoch, from 1."""

    loss: float
    """Mean training loss."""

    metrics: Mapping[str, float]
    """Metrics on the validation part."""


class Fit:
    """One training run, which can be saved and resumed between epochs.

    With several `parts`, each batch is split into as many, whose gradients accumulate: the same
    step with less memory. `rewind` is called before every epoch and before its evaluation, to undo
    what the network's own code wrote, as a delta file has only what was trained.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        groups: Sequence[Group],
        recipe: Recipe,
        *,
        seed: int,
        weight_decay: float,
        parts: int = 1,
        rewind: Callable[[], None] = lambda: None,
    ) -> None:
        self.network, self.recipe, self.seed, self.parts = network, recipe, seed, parts
        self.rewind = rewind
        self.groups = [group for group in groups if group.parameters]
        self.device = torch.device(recipe.device)
        self.optimizer = torch.optim.AdamW(_by_decay(self.groups, weight_decay))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.done = 0

    def epochs(self, train: Feed, val: Feed) -> Iterator[Epoch]:
        """Train to the last epoch and yield the result of each.

        Raises `TrialError` for a loss that is not finite or a tensor that receives no gradient.
        """
        while self.done < self.recipe.epochs:
            self.rewind()
            loss = self._epoch(train)
            self.done += 1
            self._check(loss, steps=self.done * _steps(train, self.recipe))
            self.rewind()
            metrics = evaluate(self.network, val, self.recipe, parts=self.parts)
            self._check_finite(metrics["loss"])
            yield Epoch(self.done, loss, {**metrics, "train_loss": loss})

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts of the optimizer, by the parameters' positions."""
        return moments_of(self.optimizer)

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Resume after epoch `done` with the tensors that `state` returned."""
        put_moments(self.optimizer, state)
        self.done = done

    def _epoch(self, train: Feed) -> float:
        generator = generator_of(self.seed, self.done)
        steps, total = _steps(train, self.recipe), torch.zeros((), device=self.device)
        batches = train.shuffled(self.recipe.batch_size, generator, self.done)
        with torch.random.fork_rng(devices=rng_devices(self.device)):
            set_seed(int(generator.initial_seed()), self.device)
            for step, (inputs, labels) in enumerate(timed("data", batches)):
                interrupts.check()
                self._set_rates((self.done + step / steps) / self.recipe.epochs)
                total += self._step(inputs, labels) * len(labels)
        return float(total) / len(train)

    def _step(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        parts = zip(*(tensor.chunk(self.parts) for tensor in (*inputs, labels)), strict=True)
        losses = [self._part(x, targets, len(labels)) for *x, targets in parts]
        self.optimizer.step()
        return sum(losses[1:], losses[0])

    @plain_checkpoints()
    def _part(self, inputs: Sequence[Tensor], labels: Tensor, n: int) -> Tensor:
        """Accumulate gradients of a part of a batch of `n`; return its share of the loss."""
        with self.recipe.autocast():
            logits = widened(logits_of(self.network(*inputs)))
            loss = F.cross_entropy(logits, labels) * (len(labels) / n)
        loss.backward()
        return loss.detach()

    def _set_rates(self, part_done: float) -> None:
        factor = 0.5 * (1 + math.cos(math.pi * part_done))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _check(self, loss: float, *, steps: int) -> None:
        self._check_finite(loss)
        for group in self.groups if steps > 1 else ():
            for parameter in group.parameters:
                # A gradient of exactly zero has a state; without any gradient there is none.
                if not self.optimizer.state.get(parameter):
                    raise TrialError(
                        f"Every trained tensor must get a gradient, one of {group.name} with shape "
                        f"{tuple(parameter.shape)} got none. The network does not use it."
                    )

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrialError(f"A trial must keep finite losses, epoch {self.done} gave {loss}.")


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`POSITION/KEY` → moments and step counts, by the parameters' positions."""
    states = optimizer.state_dict()["state"]
    return {f"{i}/{key}": torch.as_tensor(v) for i, s in states.items() for key, v in s.items()}


def put_moments(optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Load moments that `moments_of` returned into an optimizer of the same parameters.

    Raises `LookupError` or `ValueError` for moments of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    restored: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        position, _, key = name.partition("/")
        if tensor.shape not in (shape := parameters[int(position)].shape, torch.Size()):
            raise ValueError(
                f"{name} must have the shape {tuple(shape)}, got {tuple(tensor.shape)}"
            )
        restored.setdefault(int(position), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": restored, "param_groups": groups})


@spent("evaluation")
def evaluate(
    network: Callable[..., Tensor],
    feed: Feed,
    recipe: Recipe,
    *,
    parts: int = 1,
) -> dict[str, float]:
    """Metrics on a feed, in evaluation mode; the modules' modes are restored."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        logits, labels = predict(network, feed, recipe, parts=parts)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    return measure(logits, labels, recipe.metric)


@torch.no_grad()  # not inference mode, in which a network cannot compute gradients for itself
@plain_checkpoints()
def predict(
    network: Callable[..., Tensor],
    feed: Feed,
    recipe: Recipe,
    *,
    parts: int = 1,
) -> tuple[Tensor, Tensor]:
    """Logits (n, classes), float32 or float64, and labels (n,) in the order of the feed."""
    logits, labels = [], []
    size = max(1, 2 * recipe.batch_size // parts)
    for inputs, targets in timed("data", feed.in_order(size)):
        with recipe.autocast():
            logits.append(widened(logits_of(network(*inputs))))
        labels.append(targets)
    return torch.cat(logits), torch.cat(labels)


def autocast(device: torch.device, precision: str = "auto") -> Any:
    """Autocast context for bfloat16 if requested, or by default on a GPU; else an empty context."""
    is_low = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if is_low else nullcontext()


def rng_devices(device: torch.device) -> list[torch.device]:
    """Devices besides the CPU whose random state `fork_rng` must save for training on `device`."""
    return [device] if device.type == "cuda" else []


def _by_decay(groups: Sequence[Group], decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices and kernels decay; norms, biases and gates do not."""
    split = []
    for group in groups:
        for decays in (True, False):
            chosen = [p for p in group.parameters if (p.ndim > 1) == decays]
            if chosen:
                split.append(
                    {"params": chosen, "lr": group.rate, "weight_decay": decay if decays else 0.0}
                )
    return split


def _steps(feed: Feed, recipe: Recipe) -> int:
    return math.ceil(len(feed) / recipe.batch_size)
