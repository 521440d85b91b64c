"""The one door to torchvision, which must match the installed torch to the minor version."""

from __future__ import annotations

from types import ModuleType

from autotune.errors import DependencyError, first_line


def import_torchvision() -> ModuleType:
    """The torchvision package; `DependencyError` says what to install when it does not load."""
    import torch

    try:
        import torchvision
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = first_line(error)
        raise DependencyError(
            f"torchvision must belong to the installed torch {torch.__version__}, loading it "
            f"failed ({reason}). Install the pair together: "
            "pip install --upgrade torch torchvision."
        ) from error
    module: ModuleType = torchvision
    return module
