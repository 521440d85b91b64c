"""Exports: forms in which others read an answer. A form is its file and a line of this table."""

from __future__ import annotations

from autotune.registry import Registry

FORMATS = Registry(
    "format",
    {
        "mask": "autotune.export.mask:Mask",
        "delta": "autotune.export.delta:Delta",
        "merged": "autotune.export.merged:Merged",
        "module": "autotune.export.module:Module",
        "onnx": "autotune.export.onnx:Onnx",
        "peft": "autotune.export.peft:Peft",
    },
)
