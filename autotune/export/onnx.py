"""ONNX, by torch's own exporter."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from autotune.errors import DependencyError
from autotune.export.base import Format, Subject, refused
from autotune.export.module import HINT, exported


class Onnx(Format):
    """An ONNX model with the input `input` and the output `logits`, for batches of any size."""

    file = "tuned.onnx"
    tolerance = 1e-4

    def write(self, subject: Subject, path: Path) -> None:
        _require()
        with refused("torch.onnx", HINT), _quiet():
            program = exported(subject.tuned(), subject.inputs())
            torch.onnx.export(
                program,
                (),
                path,
                input_names=["input"],
                output_names=["logits"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        import onnxruntime

        with refused("onnxruntime", HINT):
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (found,) = session.run(["logits"], {"input": subject.inputs().numpy()})
        return torch.from_numpy(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own messages on what it did not optimise."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"The format onnx needs {error.name}, which is not installed: "
            "pip install 'autotune[onnx]'."
        ) from error
