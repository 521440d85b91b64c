"""Exports: forms in which others read an answer. A form is its file and a line of this table."""

from __future__ import annotations

from autotune.utils.registry import Registry

FORMATS = Registry(
    "format",
    {
        "mask": "autotune.deploy.export.mask:Mask",
        "delta": "autotune.deploy.export.delta:DeltaFile",
        "merged": "autotune.deploy.export.merged:Merged",
        "module": "autotune.deploy.export.module:Module",
        "onnx": "autotune.deploy.export.onnx:Onnx",
        "peft": "autotune.deploy.export.peft:Peft",
    },
)
