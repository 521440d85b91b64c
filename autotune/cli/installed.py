"""Checks of the installation for `autotune doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

from autotune.errors import DependencyError
from autotune.utils.distribution import installed_versions

PACKAGES = ("autotune", "torch", "torchvision", "optuna", "ray", "numpy", "safetensors")
_START_RAY = (
    "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, "
    "log_to_driver=False, logging_level='ERROR'); ray.shutdown()"
)


def examine() -> dict[str, Any]:
    """Return versions, devices and the results of the checks.

    `healthy` is false if torchvision does not fit torch. Ray is optional and does not count.
    """
    import torch

    checks = {"torchvision fits torch": _torchvision(), "ray starts": _ray()}
    return {
        "python": platform.python_version(),
        **installed_versions(*PACKAGES),
        "cores": os.cpu_count(),
        "devices": [
            "cpu",
            *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        ],
        **checks,
        "healthy": checks["torchvision fits torch"] == "yes",
    }


def _torchvision() -> str:
    from autotune.backbones.sources.torchvision_import import import_torchvision

    try:
        import_torchvision()
    except DependencyError as error:
        return str(error)
    return "yes"


def _ray() -> str:
    """Start Ray in a subprocess, so that a crash or hang of it cannot end this one."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _START_RAY], capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        return "no: it did not start within 90 s"
    lines = done.stderr.strip().splitlines()
    return "yes" if done.returncode == 0 else f"no: {lines[-1] if lines else 'it failed'}"
