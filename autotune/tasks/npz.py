"""`npz:FILE`: numpy arrays `x_train, y_train`, optionally `x_val, y_val, x_test, y_test`."""

from __future__ import annotations

from pathlib import Path

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.array_files import Arrays, read_npz
from autotune.tasks.base import Task
from autotune.tasks.examples import Examples, make_task
from autotune.tasks.labels import read_labels
from autotune.tasks.left_out import LeftOut
from autotune.tasks.numbers import as_inputs
from autotune.tasks.options import DEFAULTS, DataOptions
from autotune.tasks.part_names import PARTS

ARRAYS = "It needs x_train and y_train, and may have x_val, y_val, x_test, y_test."
KNOWN = frozenset(f"{kind}_{part}" for kind in ("x", "y", "group") for part in PARTS)


def load(name: str, input: InputDescription | None, options: DataOptions = DEFAULTS) -> Task:
    """Load uint8 images (n, h, w), (n, h, w, c) or (n, c, h, w), or arrays for the network.

    Labels are integers, strings or booleans, (n,) or one-hot; examples of one `group_*` stay in one
    part. Object arrays are refused: nothing is unpickled.
    """
    path = Path(name)
    if not path.is_file():
        raise TaskError(f"An npz: task must exist, {name!r} does not.")
    arrays, others = read_npz(path, KNOWN.__contains__)
    _report_others(others, name)
    _refuse_wrong(arrays, name)
    parts = {part: _examples(arrays, part, name, input) for part in PARTS if f"x_{part}" in arrays}
    return make_task(f"npz:{name}", parts, options)


def _report_others(names: list[str], file: str) -> None:
    left_out = LeftOut()
    for name in names:
        left_out.add("arrays of other names", name)
    left_out.report(file)


def _refuse_wrong(arrays: Arrays, file: str) -> None:
    for part in PARTS:
        names = [f"{kind}_{part}" for kind in ("x", "y", "group") if f"{kind}_{part}" in arrays]
        if names or part == "train":
            _refuse_wrong_part(arrays, part, file)


def _refuse_wrong_part(arrays: Arrays, part: str, file: str) -> None:
    x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
    if x is None or y is None:
        missing = f"{'x' if x is None else 'y'}_{part}"
        raise TaskError(f"The array {missing} is missing from {file!r}. {ARRAYS}")
    if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not len(y):
        raise TaskError(
            f"x_{part} and y_{part} must have equal length, at least one, with labels (n,); "
            f"{file!r} has {x.shape} and {y.shape}. {ARRAYS}"
        )
    groups = arrays.get(f"group_{part}")
    if groups is not None and groups.size != len(y):
        raise TaskError(
            f"group_{part} must name one group per example; {file!r} has {groups.shape} for "
            f"{len(y)} examples."
        )


def _examples(arrays: Arrays, part: str, file: str, input: InputDescription | None) -> Examples:
    groups = arrays.get(f"group_{part}")
    return Examples(
        as_inputs(arrays[f"x_{part}"], input, f"x_{part} of {file!r}"),
        read_labels(arrays[f"y_{part}"], f"y_{part} of {file!r}"),
        None if groups is None else groups.reshape(-1).tolist(),
    )
