"""Side-Tuning: a small network in parallel to a stage or the whole backbone, blended with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.dataflow import Point
from autotune.deltas.base import Evidence, check_size, is_off, scaled
from autotune.deltas.bottleneck import as_places
from autotune.deltas.paths import PathDelta, change_at, look_at
from autotune.deltas.site import Site

STEPS, BATCH, RATE = 200, 32, 3e-3
"""Training steps, batch size and learning rate of the distillation."""

ALPHA = 1.39
"""Initial α: the base's share is σ(1.39) = 0.8, the second of two values in the authors' code."""


class Side(PathDelta):
    """a·B(x) + (1-a)·S(x) of a frozen B and a small S of `width` channels (equation 1).

    a = σ(α) with α learned and never decayed; or, with `curriculum` k > 0, a = k / (k + N) after N
    training steps. S is first distilled from B on the task's training inputs, without labels. B
    gets no gradient, since nothing in it trains.
    """

    paper = "Side-Tuning (arXiv 1912.13503)"
    what = "a small network in parallel to the span, and their blend"
    where = "stages, the network; not for token ids"
    inference = "the side network"
    on_span = True
    not_zero = (
        "the side network counts from the first step and agrees with the base only as closely as "
        "its distillation does; as α grows the output becomes exactly the base's"
    )

    def __init__(self, width: int, curriculum: int = 0) -> None:
        super().__init__()
        self.width = check_size("side", "width", width)
        self.curriculum = check_size("side", "curriculum", curriculum, least=0)

    def build(self, site: Site) -> nn.Module | None:
        entry, exit = site.entry, site.exit
        if entry is None or exit is None or not entry.dtype.is_floating_point:
            return None
        if not entry.is_batched or not exit.is_batched:
            return None
        return _Blend(entry, exit, self.width, self.curriculum)

    def start(self, site: Site, evidence: Evidence) -> None:
        self.path = self.built(site)
        if self.path is None:
            return
        assert isinstance(self.path, _Blend)
        seed = torch.initial_seed()
        key = ("side", site.name, self.width, seed)
        self.path.student.load_state_dict(
            evidence.once(key, lambda: self._distilled(site, evidence))
        )

    def hook(self, site: Site) -> list[Any]:
        assert isinstance(self.path, _Blend) and site.entry and site.exit
        return [
            look_at(site, site.entry, self._keep),
            change_at(site, site.exit, self._blended),
        ]

    def _keep(self, x: Tensor) -> None:
        self._taken = x.clone()  # the first module may work in place

    def _blended(self, base: Tensor) -> Tensor:
        taken, self._taken = self._taken, None
        if is_off(self.gate):
            return base
        assert isinstance(self.path, _Blend) and taken is not None
        return base + scaled(self.path(taken, base), self.gate)

    _taken: Tensor | None = None

    def _distilled(self, site: Site, evidence: Evidence) -> dict[str, Tensor]:
        assert isinstance(self.path, _Blend)
        student = self.path.student
        inputs, targets = evidence.passing(site)
        _fit(student, inputs, targets)
        return {name: tensor.clone() for name, tensor in student.state_dict().items()}


def _fit(student: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Fit the student by least squares with Adam, the rate falling as a cosine."""
    optimizer = torch.optim.Adam(student.parameters(), RATE)
    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),)).to(inputs.device)
            loss = F.mse_loss(student(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()


class _Blend(nn.Module):
    """(1-a)·(S(x) - B(x)), the term that is added to B(x)."""

    def __init__(self, entry: Point, exit: Point, width: int, curriculum: int) -> None:
        super().__init__()
        self.student = _Student(entry, exit, width)
        self.curriculum = curriculum
        if curriculum:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        else:
            self.alpha = nn.Parameter(torch.full((1,), ALPHA))

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        output: Tensor = self.student(x)
        return (1 - self.share()) * (output - base)

    def share(self) -> Tensor:
        """Share a of the base; with a curriculum, each training step is counted and lowers it."""
        if not self.curriculum:
            return torch.sigmoid(self.alpha)
        steps = self.get_buffer("steps")
        share = self.curriculum / (self.curriculum + steps.float())
        if torch.is_grad_enabled() and next(self.student.parameters()).requires_grad:
            steps += 1
        return share.to(next(self.student.parameters()).dtype)


class _Student(nn.Module):
    """Three 3×3 convolutions for images, or for tokens a bottleneck that also sees neighbours."""

    def __init__(self, entry: Point, exit: Point, width: int) -> None:
        super().__init__()
        self.entry, self.exit = entry, exit
        self.body = _convolutions(entry, exit, width) if _is_image(entry) else _tokens(entry, width)
        self.out = nn.Linear(width, exit.width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x.movedim(self.entry.channel, 1))
        output: Tensor = self.out(as_places(y, 1, self.exit.places))
        return output.movedim(-1, self.exit.channel)


def _is_image(entry: Point) -> bool:
    return len(entry.places) == 2


def _tokens(entry: Point, width: int) -> nn.Module:
    has_tokens = bool(entry.places)
    first = nn.Conv1d(entry.width, width, 1) if has_tokens else nn.Linear(entry.width, width)
    around = nn.Conv1d(width, width, 3, padding=1, groups=width) if has_tokens else nn.Identity()
    flatten = [nn.Flatten(2)] if len(entry.places) > 1 else []
    return nn.Sequential(*flatten, first, nn.GELU(), around, nn.GELU())


def _convolutions(entry: Point, exit: Point, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = entry.width
    for halved in _halvings(entry, exit):
        layers.append(nn.Conv2d(channels, width, 3, 2 if halved else 1, 1, bias=False))
        layers += [nn.GroupNorm(1 + (width % 2 == 0), width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def _halvings(entry: Point, exit: Point) -> tuple[bool, bool, bool]:
    """Whether each of three convolutions halves height and width, as the exit needs.

    Without a height at the exit, down to an eighth of the entry's, but not below 4.
    """
    height = entry.places[0]
    target = exit.places[0] if len(exit.places) == 2 else max(4, height // 8)
    n = min(3, max(0, int(math.log2(height / target))))
    return n > 0, n > 1, n > 2
