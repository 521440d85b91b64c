"""Micro-batches: what waits while the network computes is its next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ALL = "*"
"""Asks for all tasks."""

Answer = Tensor | dict[str, Tensor]


@dataclass(eq=False)
class Ask:
    """Examples of one request, and the task that they are for."""

    inputs: Tensor
    """(n, ...)"""

    task: str
    answer: asyncio.Future[Answer] = field(default_factory=asyncio.Future)


Compute = Callable[[list[Ask]], list[Answer]]
"""Answers of some asks, in their order."""


class Batches:
    """Takes asks as they come, computes them together in a thread of its own, one batch at a time.

    A batch has at most `size` examples, but for a single ask with more.
    """

    def __init__(self, compute: Compute, *, size: int) -> None:
        self.compute, self.size = compute, size
        self.waiting: asyncio.Queue[Ask] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None
        self._left: Ask | None = None

    def start(self) -> None:
        """In the loop that runs."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """When all that waits is answered."""
        await self.waiting.join()
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown()

    async def answer(self, inputs: Tensor, task: str) -> Answer:
        """Logits of a task, or of each; raises what the network raises."""
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
            except Exception as error:  # whatever a network raises is the answer of its requests
                answers = [error] * len(asks)
            for ask, answer in zip(asks, answers, strict=True):
                _tell(ask, answer)
                self.waiting.task_done()

    async def _next(self) -> list[Ask]:
        """The first that waits and all others that fit beside it."""
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


def _tell(ask: Ask, answer: Any) -> None:
    if ask.answer.done():  # its client has gone
        return
    if isinstance(answer, Exception):
        ask.answer.set_exception(answer)
    else:
        ask.answer.set_result(answer)


def together(
    asks: list[Ask], of_task: Callable[..., Any], of_all: Callable[..., Any]
) -> list[Answer]:
    """Answers by one call for those that ask for a task, and one for those that ask for all."""
    found: dict[int, Answer] = {}
    for is_all in (False, True):
        mine = [at for at, ask in enumerate(asks) if (ask.task == ALL) == is_all]
        if not mine:
            continue
        inputs = torch.cat([asks[at].inputs for at in mine])
        sizes = [len(asks[at].inputs) for at in mine]
        if is_all:
            parts = {name: logits.split(sizes) for name, logits in of_all(inputs).items()}
            for place, at in enumerate(mine):
                found[at] = {name: logits[place] for name, logits in parts.items()}
        else:
            names = [asks[at].task for at in mine for _ in range(len(asks[at].inputs))]
            rows = iter(of_task(inputs, names))
            for at, size in zip(mine, sizes, strict=True):
                found[at] = torch.stack([next(rows) for _ in range(size)])
    return [found[at] for at in range(len(asks))]
