"""The name under which autotune is installed, its optional parts, and installed versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGE = "autotune"
"""Name to import."""

DISTRIBUTION = "torch-autotune"
"""Name to install: on PyPI the name `autotune` belongs to another project."""


def install_command(extra: str) -> str:
    """Command that installs an optional part, for messages."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def installed_version(package: str) -> str | None:
    """Installed version of a package; None if it is not installed."""
    try:
        return version(DISTRIBUTION if package == PACKAGE else package)
    except PackageNotFoundError:
        return None


def installed_versions(*packages: str) -> dict[str, str]:
    """Package → its installed version, or `not installed`."""
    return {package: installed_version(package) or "not installed" for package in packages}
