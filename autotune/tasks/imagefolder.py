"""`imagefolder:DIR`: one folder per class, or such folders inside those of the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Task
from autotune.tasks.examples import Examples, make_task
from autotune.tasks.folders import ImageFile, find_classes, find_parts
from autotune.tasks.image import Decoded, decode_all, decode_image
from autotune.tasks.labels import ClassLabels
from autotune.tasks.left_out import LeftOut
from autotune.tasks.options import DEFAULTS, DataOptions, Skipped
from autotune.tasks.pixels import depth_that_holds
from autotune.utils.events import tell, warn

IN_MEMORY = 2**30
"""Bytes of decoded images of a part that are kept in memory, 1 GiB; larger parts are decoded by
loader processes in every pass.

Not tuned: three parts of this size still fit into a laptop's memory.
"""


FLOAT_BYTES = 4
"""Bytes of each value of deep images, which become float32."""


def load(name: str, input: InputDescription | None, options: DataOptions = DEFAULTS) -> Task:
    """Load images in the size of `input`; classes are the sorted names of the folders.

    Raises `TaskError` that names all images which do not decode, unless they are to be left out.
    """
    root = Path(name)
    if not root.is_dir():
        raise TaskError(f"An imagefolder: task must be a folder, {name!r} is not.")
    if input is None or not input.is_image:
        raise TaskError(
            "A folder of images needs a backbone whose image size is known. "
            "Describe it with --input FILE (size, channels, mean, std)."
        )
    left_out = LeftOut()
    parts = find_parts(root, left_out)
    images = {part: find_classes(folder, left_out) for part, folder in parts.items()}
    for part in [part for part, files in images.items() if not files]:
        _refuse_without_classes(part, parts[part], options)
        del images[part]
    left_out.report(name)
    return _task(f"imagefolder:{name}", images, input, options)


def _refuse_without_classes(part: str, folder: Path, options: DataOptions) -> None:
    """Raise `TaskError` for a part without classes, such as a test part whose labels are secret."""
    if part != "train" and options.skip_unlabelled:
        warn(f"{folder} has no folders of classes: {part} is split from the others instead.")
        return
    way_out = "" if part == "train" else " Give --skip-unlabelled to leave this part out."
    raise TaskError(
        f"An image folder needs one folder of images per class, {folder} has none.{way_out}"
    )


def _task(
    source: str,
    images: Mapping[str, Sequence[ImageFile]],
    input: InputDescription,
    options: DataOptions,
) -> Task:
    read = {part: read_images([i.path for i in files], input) for part, files in images.items()}
    skipped = [bad for part in read.values() for bad in part.skipped]
    refuse_bad(skipped, source, options)
    input = _with_bits(source, read, input)
    examples = {
        part: _examples(source, images[part], read[part].in_bits(input), input, options)
        for part in images
    }
    kept = {part: some for part, some in examples.items() if len(some.labels)}
    if "train" not in kept:
        raise TaskError(f"Training needs images, no image of {source} for it decodes.")
    return make_task(source, kept, options, input=input, skipped=skipped)


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Images that were decoded once, to find those that cannot be used."""

    files: Sequence[Path]
    results: Sequence[Decoded | str]
    """Image or, for one that cannot be used, the reason; images have no pixels unless kept."""

    is_kept: bool
    """Whether the decoded images fit into memory."""

    @property
    def skipped(self) -> list[Skipped]:
        """Images that cannot be used."""
        pairs = zip(self.files, self.results, strict=True)
        return [Skipped(str(file), reason) for file, reason in pairs if isinstance(reason, str)]

    @property
    def good_files(self) -> list[Path]:
        """Files of the images that can be used."""
        pairs = zip(self.files, self.results, strict=True)
        return [file for file, result in pairs if isinstance(result, Decoded)]

    @property
    def images(self) -> list[Decoded]:
        """Images that can be used."""
        return [result for result in self.results if isinstance(result, Decoded)]

    @property
    def peak(self) -> int:
        """Largest value of a deep image; 0 if there are none."""
        return max((image.peak for image in self.images), default=0)

    @property
    def is_deep(self) -> bool:
        """Whether any image has more than 8 bits."""
        return any(image.pixels.is_floating_point() for image in self.images)

    def in_bits(self, input: InputDescription) -> ReadImages:
        """The same images; deep ones are decoded again if their values have fewer bits."""
        if not self.is_kept or not self.peak or input.bits is None:
            return self
        return read_images(self.files, input)


def read_images(
    files: Sequence[Path], input: InputDescription, *, always_keep: bool = False
) -> ReadImages:
    """Decode all files, with their pixels if they fit into memory or `always_keep`."""
    assert input.size is not None
    height, width = input.size
    n_values = len(files) * height * width * input.channels
    is_kept = always_keep or n_values <= IN_MEMORY
    read = ReadImages(files, list(decode_all(files, input, keep=is_kept)), is_kept)
    if read.is_deep and not always_keep and n_values * FLOAT_BYTES > IN_MEMORY:
        return replace(read, is_kept=False)
    return read


def refuse_bad(bad: Sequence[Skipped], source: str, options: DataOptions) -> None:
    """Raise `TaskError` that names all images which cannot be used, or report them if skipped."""
    if not bad:
        return
    if options.skip_bad:
        names = ", ".join(Path(one.name).name for one in bad[:3])
        more = ", …" if len(bad) > 3 else ""
        tell("left-out", f"Left out of {source}: {len(bad):,} that do not decode ({names}{more}).")
        return
    first, *others = (f"{one.name!r} does not ({one.reason})" for one in bad)
    also = f"; {len(others):,} more of {source}: {', '.join(others)}" if others else ""
    raise TaskError(
        f"Every image must decode, {first}{also}. Repair or remove what is broken, or give "
        "--skip-bad to leave it out."
    )


def _with_bits(
    source: str, read: Mapping[str, ReadImages], input: InputDescription
) -> InputDescription:
    """Input description with the bits that deep images use, where the user has not named them."""
    images = [image for part in read.values() for image in part.images]
    if n := sum(image.has_frames for image in images):
        warn(f"Images of {source} with several frames or pages: {n:,}. Only the first is used.")
    peak = max((image.peak for image in images), default=0)
    if not peak or input.bits is not None:
        return input
    bits = depth_that_holds(peak)
    tell(
        "bits",
        f"Grey images of {source} with more than 8 bits are scaled by the {bits} bits that their "
        f"values use (up to {peak:,}).",
    )
    return replace(input, bits=bits)


def _examples(
    source: str,
    files: Sequence[ImageFile],
    read: ReadImages,
    input: InputDescription,
    options: DataOptions,
) -> Examples:
    pairs = zip(files, read.results, strict=True)
    good = [file for file, result in pairs if isinstance(result, Decoded)]
    inputs: Any = ImageFiles(tuple(file.path for file in good), input, read.is_deep)
    if read.is_kept and good:
        inputs = stacked([image.pixels for image in read.images], input)
    groups = None if options.group is None else _groups(source, good, options.group)
    return Examples(inputs, ClassLabels([file.label for file in good]), groups)


def _groups(source: str, files: Sequence[ImageFile], level: int) -> list[Any]:
    """Names of the folders down to a level below the class; a file without is a group alone."""
    if alone := [file for file in files if len(file.folders) < level]:
        warn(
            f"{len(alone):,} images of {source} are in no folder at level {level} below their "
            f"class, such as {alone[0].path.name}: each is a group of its own."
        )
    return [
        file.folders[:level] if len(file.folders) >= level else str(file.path) for file in files
    ]


def stacked(images: Sequence[Tensor], input: InputDescription) -> Tensor:
    """Decoded images as one tensor: uint8 or, if any of them is deep, normalised float32."""
    if any(image.is_floating_point() for image in images):
        images = [input.normalised(image[None])[0] for image in images]
    return torch.stack(list(images))


@dataclass(frozen=True, eq=False)
class ImageFiles(Sequence[Tensor]):
    """Image files, decoded on access to (channels, height, width)."""

    files: tuple[Path, ...]
    """Absolute paths, since a worker may run in another folder."""

    input: InputDescription

    is_deep: bool = False
    """Whether images are normalised float32, as some have more than 8 bits; others are uint8."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: Any) -> Any:
        image = decode_image(self.files[at], self.input)
        return self.input.normalised(image[None])[0] if self.is_deep else image

    def carried(self) -> Sequence[Tensor]:
        """The same images with the content of their files in memory."""
        contents = tuple(np.fromfile(file, np.uint8) for file in self.files)
        return _EncodedImages(contents, self.input, self.is_deep)


@dataclass(frozen=True, eq=False)
class _EncodedImages(Sequence[Tensor]):
    """Content of image files, decoded on access."""

    contents: tuple[NDArray[np.uint8], ...]
    input: InputDescription
    is_deep: bool

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, at: Any) -> Any:
        image = decode_image(BytesIO(self.contents[at].tobytes()), self.input)
        return self.input.normalised(image[None])[0] if self.is_deep else image
