"""Pickling of an engine for its workers, with large arrays out of band for sharing."""

from __future__ import annotations

import pickle

import numpy as np
from numpy.typing import NDArray

from autotune.errors import WorkerError
from autotune.problem.job import RunsJob

WAY_OUT = "Networks and data passed as objects must come from a module; or use --workers 1."

Packed = tuple[bytes, list[NDArray[np.uint8]]]
"""Pickled engine, and the buffers of its arrays, which need no copy in shared memory."""


def packed(engine: RunsJob) -> Packed:
    """Pickle an engine; raises `WorkerError` if it cannot be pickled."""
    arrays: list[NDArray[np.uint8]] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        arrays.append(np.frombuffer(buffer.raw(), np.uint8))

    try:
        return pickle.dumps(engine, protocol=5, buffer_callback=keep), arrays
    except Exception as error:
        raise WorkerError(
            "An engine must be picklable for its workers, this one is not "
            f"({type(error).__name__}: {error}). {WAY_OUT}"
        ) from error


def unpacked(content: Packed) -> RunsJob:
    """Unpickle an engine in this process; raises whatever its parts raise."""
    code, arrays = content
    engine: RunsJob = pickle.loads(code, buffers=arrays)
    return engine


def refusal(error: Exception) -> WorkerError:
    """Error of a worker that cannot load the engine."""
    return WorkerError(
        f"A worker could not load the engine ({type(error).__name__}: {error}). {WAY_OUT}"
    )
