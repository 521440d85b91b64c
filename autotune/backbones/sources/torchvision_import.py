"""The only import of torchvision, which must match the installed torch to the minor version."""

from __future__ import annotations

from types import ModuleType

from autotune.errors import DependencyError, first_line


def import_torchvision() -> ModuleType:
    """Import torchvision; if that fails, raise `DependencyError` that names what to install."""
    import torch

    try:
        import torchvision
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = first_line(error)
        raise DependencyError(
            f"torchvision must match the installed torch {torch.__version__}, importing it failed "
            f"({reason}). Install both together: "
            "pip install --upgrade torch torchvision."
        ) from error
    module: ModuleType = torchvision
    return module
