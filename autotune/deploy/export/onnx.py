"""Format `onnx`: an ONNX model written by the exporter of PyTorch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.deploy.export.base import Format, Subject, refused
from autotune.deploy.export.module import HINT, exported
from autotune.errors import DependencyError
from autotune.utils.distribution import install_command


class Onnx(Format):
    """ONNX model with input `input`, output `logits` and a dynamic batch size."""

    file = "tuned.onnx"
    tolerance = 1e-4
    """Larger than for other formats, because ONNX Runtime has its own kernels and fusions."""

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

        _embed(path, subject.provenance("onnx"))

    def outputs(self, subject: Subject, path: Path) -> Tensor:
        import onnxruntime

        with refused("onnxruntime", HINT):
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            (logits,) = session.run(["logits"], {"input": subject.inputs().numpy()})
        return torch.from_numpy(logits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about skipped optimisations."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _embed(path: Path, provenance: dict[str, Any]) -> None:
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"autotune": json.dumps(provenance)})
    onnx.save(model, path)


def read_provenance(path: Path) -> dict[str, Any]:
    """Metadata that autotune embedded in an ONNX model.

    Raises `ValueError` if the file is not an ONNX model, `KeyError` if it has no such metadata.
    """
    try:
        import onnx
    except ImportError as error:
        raise DependencyError(
            "Inspecting an ONNX model needs onnx, which is not installed: pip install onnx."
        ) from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"it is not an ONNX model: {error}") from error
    properties = {prop.key: prop.value for prop in model.metadata_props}
    provenance: dict[str, Any] = json.loads(properties["autotune"])
    return provenance


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"The format onnx needs {error.name}, which is not installed: "
            f"{install_command('onnx')}."
        ) from error
