"""Backends: where jobs run. Each owns the loop and asks a source for jobs."""

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
