"""Backends: where jobs run. Each owns the loop and asks a source for jobs."""

from __future__ import annotations

from autotune.registry import Registry

BACKENDS = Registry(
    "backend",
    {
        "inline": "autotune.backends.inline:InlineBackend",
        "processes": "autotune.backends.processes:ProcessBackend",
        "ray": "autotune.backends.ray:RayBackend",
    },
)
