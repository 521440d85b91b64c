"""Images in folders as people have them: parts, classes, and what is neither."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import TaskError
from autotune.tasks.image import PLUGINS, image_suffixes
from autotune.tasks.left_out import LeftOut
from autotune.tasks.part_names import by_part, part_of
from autotune.utils.events import tell, warn

HIDDEN = "hidden files and folders"
LINKS = "links that lead nowhere, or to what was read already"
OTHERS = "files of other kinds"
PLUGIN = "images that need another library"
OUTSIDE = "images outside the folders of classes"
EMPTY = "folders without images"

_OF_PROGRAMS = frozenset(
    [*"__MACOSX __pycache__ @eaDir lost+found $RECYCLE.BIN".split(), "System Volume Information"]
)
"""Folders that operating systems and programs leave behind."""


@dataclass(frozen=True)
class ImageFile:
    """Image of a class."""

    path: Path
    """Absolute path, since a worker may run in another folder."""

    label: str

    folders: tuple[str, ...]
    """Names of the folders between that of the class and the file."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or was left behind by a program."""
    return name.startswith(".") or name in _OF_PROGRAMS


def find_parts(root: Path, left_out: LeftOut) -> dict[str, Path]:
    """Part → its folder, if all folders at the top are parts; otherwise the root is for training.

    A class may be called `test`. What was recognised is reported.
    """
    folders = [folder for folder in _subfolders(root, LeftOut()) if _counts_at_top(folder)]
    named = [folder.name for folder in folders if part_of(folder.name)]
    if "train" in map(part_of, named) and len(named) == len(folders):
        names = by_part(named, str(root))
        tell("parts", f"Parts of {root}: {', '.join(f'{n} is {p}' for p, n in names.items())}.")
        _note_around(root, folders, left_out)
        return {part: root / name for part, name in names.items()}
    if named:
        warn(
            f"Folders of {root} that are read as classes: {', '.join(map(repr, named))}. They "
            "would be parts if all folders next to them were, and one were for training."
        )
    return {"train": root}


def _counts_at_top(folder: Path) -> bool:
    """Whether a folder is called as a part or has images; others do not decide what is a part."""
    if part_of(folder.name) is not None:
        return True
    return any(_is_image(file, LeftOut()) for file in _files(folder, set(), LeftOut()))


def _note_around(root: Path, parts: list[Path], left_out: LeftOut) -> None:
    """Note what is next to the folders of parts."""
    for folder in _subfolders(root, left_out):
        if folder not in parts:
            left_out.add(EMPTY, folder.name)
    _note_loose_files(root, left_out)


def find_classes(folder: Path, left_out: LeftOut) -> list[ImageFile]:
    """Images in the folders of classes, sorted."""
    images: list[ImageFile] = []
    classes = _subfolders(folder, left_out)
    places = {os.path.realpath(entry) for entry in classes}
    for entry in classes:
        files = find_images(entry, left_out, places)
        if not files:
            left_out.add(EMPTY, entry.name)
        for file in files:
            between = file.relative_to(entry.absolute()).parts[:-1]
            images.append(ImageFile(file, entry.name, between))
    _note_loose_files(folder, left_out)
    return images


def _note_loose_files(folder: Path, left_out: LeftOut) -> None:
    for file in _entries(folder):
        if not file.is_dir() and is_hidden(file.name):
            left_out.add(HIDDEN, file.name)
        elif not file.is_dir():
            _note_outside(file, left_out)


def _note_outside(file: Path, left_out: LeftOut) -> None:
    left_out.add(OUTSIDE if file.suffix.lower() in image_suffixes() else OTHERS, file.name)


def find_images(folder: Path, left_out: LeftOut, others: Collection[str] = ()) -> list[Path]:
    """Absolute paths of the images in a folder and all below it, sorted.

    Links are followed once, and neither to folders above nor to the real paths `others`.
    """
    files = _files(folder, set(others), left_out)
    images = [file.absolute() for file in files if _is_image(file, left_out)]
    return sorted(_once(images, left_out))


def _files(folder: Path, visited: set[str], left_out: LeftOut) -> Iterator[Path]:
    """Files below a folder, without those in folders that were visited."""
    visited |= _places_above(folder)
    pending = [folder]
    while pending:
        for entry in _entries(pending.pop()):
            if is_hidden(entry.name):
                left_out.add(HIDDEN, entry.name)
            elif not entry.is_dir():
                yield entry
            elif (place := os.path.realpath(entry)) in visited:
                left_out.add(LINKS, entry.name)
            else:
                visited.add(place)
                pending.append(entry)


def _places_above(folder: Path) -> set[str]:
    """Real paths of a folder and of all folders above it."""
    place = Path(os.path.realpath(folder))
    above = {os.path.realpath(parent) for parent in folder.absolute().parents}
    return {str(place), *map(str, place.parents), *above}


def _entries(folder: Path) -> list[Path]:
    """Content of a folder, links after what they may lead to."""
    try:
        return sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry))
    except OSError as error:
        raise TaskError(
            f"A folder of images must be readable, {str(folder)!r} is not ({error.strerror})."
        ) from error


def _is_image(file: Path, left_out: LeftOut) -> bool:
    suffix = file.suffix.lower()
    if not file.is_file():
        left_out.add(LINKS if file.is_symlink() else OTHERS, file.name)
    elif suffix in image_suffixes():
        return True
    else:
        left_out.add(PLUGIN if suffix in PLUGINS else OTHERS, file.name)
    return False


def _once(files: list[Path], left_out: LeftOut) -> Iterator[Path]:
    """Files without links to others of them, or to the same file twice."""
    links = sorted(file for file in files if file.is_symlink())
    yield from (real := sorted(set(files) - set(links)))
    places = {os.path.realpath(file) for file in real} if links else set()
    for file in links:
        if (place := os.path.realpath(file)) in places:
            left_out.add(LINKS, file.name)
        else:
            places.add(place)
            yield file


def _subfolders(root: Path, left_out: LeftOut) -> list[Path]:
    """Folders in a folder, without hidden ones and links to each other or to folders above."""
    visited, folders = _places_above(root), []
    for entry in filter(Path.is_dir, _entries(root)):
        place = os.path.realpath(entry)
        if is_hidden(entry.name):
            left_out.add(HIDDEN, entry.name)
        elif place in visited:
            left_out.add(LINKS, entry.name)
        else:
            visited.add(place)
            folders.append(entry)
    return sorted(folders)
