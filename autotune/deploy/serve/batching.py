"""Micro-batching: requests that arrive while the network computes form its next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ALL = "*"
"""Task name that requests all tasks."""

Answer = Tensor | dict[str, Tensor]


@dataclass(eq=False)
class Ask:
    """Examples of one request and the task they are for."""

    inputs: Tensor
    """Examples of shape (n, ...)."""

    task: str
    answer: asyncio.Future[Answer] = field(default_factory=asyncio.Future)


Compute = Callable[[list[Ask]], list[Answer]]
"""Function from requests to their answers, in the same order."""


class Batches:
    """Collects requests and computes them in batches, one at a time, in a separate thread.

    A batch has at most `size` examples, unless a single request has more.
    """

    def __init__(self, compute: Compute, *, size: int) -> None:
        self.compute, self.size = compute, size
        self.waiting: asyncio.Queue[Ask] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None
        self._left: Ask | None = None
        """Request that did not fit into the previous batch."""

    def start(self) -> None:
        """Start in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop after every waiting request has been answered."""
        await self.waiting.join()
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    async def answer(self, inputs: Tensor, task: str) -> Answer:
        """Logits of a task, or by name for `ALL`; raises whatever the network raises."""
        ask = Ask(inputs, task)
        self.waiting.put_nowait(ask)
        return await ask.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asks = await self._next()
            try:
                answers: Sequence[Any] = await loop.run_in_executor(
                    self._thread, self.compute, asks
                )
            except Exception as error:  # a network may raise anything; each request receives it
                answers = [error] * len(asks)
            for ask, answer in zip(asks, answers, strict=True):
                _resolve(ask, answer)
                self.waiting.task_done()

    async def _next(self) -> list[Ask]:
        """First waiting request and all following ones that fit into the same batch."""
        asks = [self._left or await self.waiting.get()]
        self._left, n = None, len(asks[0].inputs)
        while not self.waiting.empty():
            ask = self.waiting.get_nowait()
            n += len(ask.inputs)
            if n > self.size:
                self._left = ask
                break
            asks.append(ask)
        return asks


def _resolve(ask: Ask, answer: Any) -> None:
    if ask.answer.done():  # the client has disconnected
        return
    if isinstance(answer, Exception):
        ask.answer.set_exception(answer)
    else:
        ask.answer.set_result(answer)


def together(
    asks: list[Ask], of_task: Callable[..., Any], of_all: Callable[..., Any]
) -> list[Answer]:
    """Compute requests in two calls: one for those with a single task, one for those with `ALL`."""
    answers: dict[int, Answer] = {}
    for is_all in (False, True):
        group = [at for at, ask in enumerate(asks) if (ask.task == ALL) == is_all]
        if not group:
            continue
        inputs = torch.cat([asks[at].inputs for at in group])
        sizes = [len(asks[at].inputs) for at in group]
        if is_all:
            parts = {name: logits.split(sizes) for name, logits in of_all(inputs).items()}
            for place, at in enumerate(group):
                answers[at] = {name: logits[place] for name, logits in parts.items()}
        else:
            names = [asks[at].task for at in group for _ in range(len(asks[at].inputs))]
            rows = iter(of_task(inputs, names))
            for at, size in zip(group, sizes, strict=True):
                answers[at] = torch.stack([next(rows) for _ in range(size)])
    return [answers[at] for at in range(len(asks))]
