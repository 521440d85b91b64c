"""Export formats for using a tuned network without autotune.

A new format is a file in this folder and a line in this table.
"""

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
