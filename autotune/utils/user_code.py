"""Functions of the user (`python:` sources, head factories): the only foreign code that runs."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from autotune.errors import BackboneError, TaskError, UnknownName, unknown

_ERRORS = {"backbone": BackboneError, "task": TaskError, "head factory": BackboneError}
_PREFIXES = {"backbone": "python:", "task": "python:", "head factory": ""}


def call_source(name: str, *, what: str) -> Any:
    """Call `MODULE-or-FILE:FUNCTION` without arguments; return its result.

    `what` is `backbone` or `task`: raises `BackboneError` or `TaskError` if the file is missing or
    the code raises, and `UnknownName` for an unknown function.
    """
    make = imported_function(name, what=what)
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results
            return make()
    except (Exception, SystemExit) as error:
        raise _ERRORS[what](
            f"python:{name} must return a {what}, it raised {type(error).__name__}: {error}. "
            "Call it directly to see more."
        ) from error


def imported_function(name: str, *, what: str) -> Callable[..., Any]:
    """Function of a name `MODULE-or-FILE:FUNCTION`.

    `what` is `backbone`, `task` or `head factory`: raises the errors of `call_source` for a file or
    module that cannot be imported, and `UnknownName` for an unknown function.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        prefix = _PREFIXES[what]
        raise UnknownName(
            f"A {f'{prefix} {what}'.strip()} is written {prefix}MODULE-or-FILE:FUNCTION, got "
            f"{prefix}{name}."
        )
    module = _module(place, what)
    make: Any = getattr(module, function, None)
    if not callable(make):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UnknownName(unknown(f"function in {place}", function, known))
    return make  # type: ignore[no-any-return]


def import_sources(places: Sequence[str]) -> None:
    """Import the modules or files of `python:` sources, in a worker process."""
    for place in places:
        _module(place, "backbone")


def ship_sources(places: Sequence[str], folder: Path) -> list[str]:
    """Copy files, and modules of the working folder, to `folder`; return the names to import.

    Installed modules are expected to be installed on every machine.
    """
    names = []
    for place in places:
        module = _module(place, "backbone")
        home = Path(module.__file__ or "").resolve()
        if place.endswith(".py"):
            shutil.copy(home, folder / f"{module.__name__}.py")
        elif home.is_relative_to(Path.cwd()):
            top = Path.cwd() / place.partition(".")[0]
            if top.is_dir():
                shutil.copytree(top, folder / top.name, dirs_exist_ok=True)
            else:
                shutil.copy(home, folder)
        names.append(module.__name__)
    return names


def import_shipped(names: Sequence[str]) -> None:
    """Import the names that `ship_sources` returned, in a worker on another machine."""
    for name in names:
        import_module(name)


def _module(place: str, what: str) -> ModuleType:
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results
            return _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    except _ERRORS[what]:
        raise
    except FileNotFoundError as error:
        kind = "python: source" if _PREFIXES[what] else what
        raise _ERRORS[what](f"A {kind} must exist, {place!r} does not.") from error
    except (Exception, SystemExit) as error:
        raise _ERRORS[what](
            f"{_PREFIXES[what]}{place} must import, it raised {type(error).__name__}: {error}."
        ) from error


def _from_file(path: Path) -> ModuleType:
    resolved = path.resolve(strict=True)
    name = f"autotune_source_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, resolved)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return import_module(name)
