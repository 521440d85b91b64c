"""Recovery when a training step does not fit into memory."""

from __future__ import annotations

import gc

import torch

BATCH_SPLITS = 1, 2, 4
"""Parts that a batch is trained in, one after the other, when it does not fit into memory.

Not tuned; few, as each attempt repeats the epoch that was interrupted.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in torch's own allocator, or in Python."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Free what a failed step held; call it after the error, which held the step's frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
