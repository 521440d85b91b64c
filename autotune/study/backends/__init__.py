"""Backends run jobs: each owns the loop and requests jobs from a source."""

from __future__ import annotations

from autotune.utils.registry import Registry

BACKENDS = Registry(
    "backend",
    {
        "inline": "autotune.study.backends.inline:InlineBackend",
        "processes": "autotune.study.backends.processes:ProcessBackend",
        "ray": "autotune.study.backends.ray:RayBackend",
    },
)
