"""Names that people give to the parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from autotune.errors import TaskError

PARTS = ("train", "val", "test")

_STEMS = {
    "train": "train|training|trainset|trn",
    "val": "val|valid|validation|validate|dev|development|devel|eval|evaluation",
    "test": "test|testing|tst",
}
_NAMED = {
    part: re.compile(rf"(?:{stems})(?:set|split|data|part|images?|imgs?)?")
    for part, stems in _STEMS.items()
}


def part_of(name: str) -> str | None:
    """Part that a name such as `Training` or `valid_set` stands for; None for other names."""
    letters = re.sub(r"[\W\d_]+", "", name).casefold()
    return next((part for part, named in _NAMED.items() if named.fullmatch(letters)), None)


def by_part(names: Iterable[str], source: str) -> Mapping[str, str]:
    """Part → its name; `TaskError` if two names stand for one part."""
    chosen: dict[str, str] = {}
    for name in names:
        part = part_of(name)
        assert part is not None
        if part in chosen:
            raise TaskError(
                f"A data set has one part of each kind, {source} has {chosen[part]!r} and {name!r} "
                f"for {part}. Rename or join them."
            )
        chosen[part] = name
    return {part: chosen[part] for part in PARTS if part in chosen}
