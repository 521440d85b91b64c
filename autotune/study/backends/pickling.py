"""How an engine travels to its workers: pickled, large arrays beside it so that they are shared."""

from __future__ import annotations

import pickle

import numpy as np
from numpy.typing import NDArray

from autotune.errors import WorkerError
from autotune.problem.job import RunsJob

WAY_OUT = "Networks and data given as objects must come from a module; or use --workers 1."

Packed = tuple[bytes, list[NDArray[np.uint8]]]
"""The engine, and the arrays inside it: where these lie in shared memory, nothing is copied."""


def packed(engine: RunsJob) -> Packed:
    """Raises `WorkerError` for an engine that cannot travel."""
    arrays: list[NDArray[np.uint8]] = []

    def beside(buffer: pickle.PickleBuffer) -> None:
        arrays.append(np.frombuffer(buffer.raw(), np.uint8))

    try:
        return pickle.dumps(engine, protocol=5, buffer_callback=beside), arrays
    except Exception as error:
        raise WorkerError(
            f"An engine must travel to its workers, which failed ({type(error).__name__}: {error})"
            f". {WAY_OUT}"
        ) from error


def unpacked(content: Packed) -> RunsJob:
    """The engine in this process. Raises whatever its parts raise."""
    code, arrays = content
    engine: RunsJob = pickle.loads(code, buffers=arrays)
    return engine


def refusal(error: Exception) -> WorkerError:
    """What a worker says that cannot load the engine."""
    return WorkerError(
        f"A worker must load the engine, which failed ({type(error).__name__}: {error}). {WAY_OUT}"
    )
