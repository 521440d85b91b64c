"""Recovery when a training step does not fit into memory."""

from __future__ import annotations

import gc

import torch

BATCH_SPLITS = 1, 2, 4
"""Numbers of parts into which a batch is split, in the order of attempts.

Not tuned; there are few, since each attempt repeats the epoch that was interrupted.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in torch's own allocator, or in Python."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Free the memory of a failed step.

    Call it outside the `except` block: until then the error keeps the frames of the step alive.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
