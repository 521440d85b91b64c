"""Images of any depth, transparency and format, in the one decoder."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotune.backbones.inputs import InputDescription
from autotune.errors import ConfigError, TaskError
from autotune.tasks.image import decode_image, image_suffixes
from autotune.tasks.pixels import depth_of, in_mode, levels_of

GREY = InputDescription(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
RGB = InputDescription(size=(8, 8))
RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def stored(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def levels(file: Path | BytesIO, input: InputDescription = GREY) -> torch.Tensor:
    return input.normalise(decode_image(file, input)[None])[0]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((RAMP * 65535).round().astype(np.uint16), "a.png"),
        ((RAMP * 65535).round().astype(np.uint16), "a.tif"),
        ((RAMP * 65535).round().astype(np.int32), "a.pgm"),
        ((RAMP * 65535).round().astype(np.uint16), "a.jp2"),
        ((RAMP * (2**31 - 1)).round().astype(np.int32), "a.tif"),
        (RAMP.astype(np.float32), "a.tif"),
        (RAMP.astype(np.float32), "a.pfm"),
    ],
)
@pytest.mark.parametrize("input", [GREY, RGB], ids=["grey", "rgb"])
def test_every_depth_is_scaled_by_its_range(tmp_path, values, name, input):
    image = levels(stored(tmp_path, Image.fromarray(values), name), input)
    assert image.shape == input.example_shape
    assert np.allclose(image.numpy(), RAMP, atol=1e-4)
    assert len(image[0].unique()) == 64


def test_bits_that_are_described_are_the_range(tmp_path):
    twelve = InputDescription(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,), bits=12)
    values = Image.fromarray((RAMP * 4095).round().astype(np.uint16))
    file = stored(tmp_path, values, "a.png")
    assert np.allclose(levels(file, twelve).numpy(), RAMP, atol=1e-3)
    brighter = stored(tmp_path, Image.fromarray(np.full((8, 8), 5000, np.uint16)), "b.png")
    with pytest.raises(TaskError, match=r"12 bits are below 4,096, these reach 5,000"):
        decode_image(brighter, twelve)
    with pytest.raises(ConfigError, match="8 to 32 bits"):
        InputDescription(size=(8, 8), bits=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), 200, np.float32), r"float pixels must be in 0..1, these are in 200..200"),
        (np.full((8, 8), np.nan, np.float32), r"float pixels must be in 0..1"),
        (np.full((8, 8), -5, np.int32), r"integer pixels must be at least 0, these begin at -5"),
    ],
)
def test_pixels_without_a_range_are_refused_by_name(tmp_path, values, message):
    file = stored(tmp_path, Image.fromarray(values), "odd.tif")
    with pytest.raises(TaskError, match=message) as caught:
        decode_image(file, GREY)
    assert str(file) in str(caught.value)


def test_white_may_be_zero(tmp_path):
    file = stored(tmp_path, Image.fromarray(RAMP.astype(np.float32)), "a.tif")
    content = bytearray(file.read_bytes())
    photometric = content.find((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[photometric + 8] = 0
    assert np.allclose(levels(BytesIO(content)).numpy(), 1 - RAMP, atol=1e-4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("input", [GREY, RGB], ids=["grey", "rgb"])
def test_every_mode_is_read(tmp_path, mode, input):
    grey = Image.fromarray((RAMP * 255).astype(np.uint8))
    bands = {"LAB": lambda: Image.merge("LAB", [grey, *[Image.new("L", (8, 8), 128)] * 2])}
    image = bands.get(mode, lambda: grey.convert("RGB").convert(mode))()
    assert 0.3 < levels(stored(tmp_path, image, "a.tif"), input).mean() < 0.6


def bar(mode: str) -> Image.Image:
    """A black bar in the middle that only the alpha channel shows."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[3:5] = 255
    black = Image.new({"LA": "L", "RGBA": "RGB"}[mode], (8, 8))
    return Image.merge(mode, [*black.split(), Image.fromarray(alpha)])


def palette() -> Image.Image:
    image = Image.fromarray(np.asarray(bar("LA"))[:, :, 1] // 255)
    image.putpalette([0, 0, 0, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    ("image", "name", "options"),
    [
        (bar("LA"), "a.png", {}),
        (bar("RGBA"), "a.png", {}),
        (bar("RGBA"), "a.webp", {"lossless": True}),
        (bar("RGBA"), "a.tif", {}),
        (palette(), "a.png", {"transparency": 0}),
        (palette(), "a.gif", {"transparency": 0}),
    ],
)
@pytest.mark.parametrize("input", [GREY, RGB], ids=["grey", "rgb"])
def test_what_only_alpha_shows_is_seen_on_the_background(tmp_path, image, name, options, input):
    pixels = decode_image(stored(tmp_path, image, name, **options), input)
    assert (pixels[:, 3:5] == 0).all()
    assert (pixels[:, :3] == 255).all()


def test_a_transparent_value_of_16_bits_is_background(tmp_path):
    values = np.where(RAMP > 0.5, 40_000, 7).astype(np.uint16)
    file = stored(tmp_path, Image.fromarray(values), "a.png", transparency=7)
    assert (levels(file)[0].numpy()[RAMP < 0.5] == 1).all()


@pytest.mark.parametrize("color", ["black", "#102030", "rebeccapurple", "rgb(1, 2, 3)"])
def test_the_background_is_a_colour_of_pillow(tmp_path, color):
    input = InputDescription(size=(8, 8), background=color)
    pixels = decode_image(stored(tmp_path, bar("RGBA"), "a.png"), input)
    assert tuple(pixels[:, 0, 0].tolist()) == Image.new("RGB", (1, 1), color).getpixel((0, 0))
    assert input.to_json()["background"] == color
    assert "background" not in RGB.to_json()


@pytest.mark.parametrize("color", ["nocolour", "#12", "#ffffff80", ""])
def test_other_backgrounds_are_refused(color):
    with pytest.raises(ConfigError, match="background of images must be a colour"):
        InputDescription(size=(8, 8), background=color)


@pytest.mark.parametrize("name", ["a.gif", "a.jfif", "a.avif", "a.jp2", "a.webp", "a.tif", "a.BMP"])
def test_formats_that_pillow_reads_are_read(tmp_path, name):
    file = stored(tmp_path, Image.new("RGB", (8, 8), (200, 100, 50)), name)
    assert file.suffix.lower() in image_suffixes()
    assert abs(decode_image(file, RGB).float().mean() - 350 / 3) < 4


def test_formats_that_start_other_programs_are_not_opened(tmp_path):
    file = stored(tmp_path, Image.new("RGB", (8, 8)), "a.eps")
    assert not {".eps", ".wmf", ".mpg", ".h5"} & image_suffixes()
    with pytest.raises(TaskError, match="no image"):
        decode_image(BytesIO(file.read_bytes()), RGB)


def test_a_large_transparent_image_is_as_if_composed_at_once(tmp_path):
    """It is composed in strips, whose borders must not show."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1200, 4), np.uint8)
    image = Image.fromarray(pixels)
    white = Image.new("RGBA", image.size, "white")
    whole = np.array(Image.alpha_composite(white, image).convert("RGB"))
    input = InputDescription(size=(1500, 1200))
    read = decode_image(stored(tmp_path, image, "a.png"), input)
    assert np.array_equal(read.numpy(), whole.transpose(2, 0, 1))


def test_a_large_deep_image_is_as_if_scaled_at_once(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (1500, 1200)).astype(np.uint16)
    input = InputDescription(size=(1500, 1200), channels=1, mean=(0.5,), std=(0.5,))
    read = decode_image(stored(tmp_path, Image.fromarray(pixels), "a.png"), input)
    assert np.array_equal(read[0].numpy(), (pixels / (2**16 - 1)).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_large_deep_image_takes_few_bytes_per_pixel(dtype):
    """A small file may stand for 100 million pixels."""
    image = Image.fromarray(np.zeros((2000, 3000), dtype))
    tracemalloc.start()
    try:
        levels_of(image, depth_of(image), None, "white")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / (2000 * 3000) < 14


def test_an_image_that_is_right_already_is_not_copied():
    image = Image.new("RGB", (4, 4))
    assert in_mode(image, "RGB") is image
    assert in_mode(image, "L").mode == "L"
