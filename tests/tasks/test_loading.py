"""Batches of a part: uint8 images stay bytes in memory and are normalised per batch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from autotune.backbones.inputs import InputDescription
from autotune.tasks.loading import batches, generator_of, shuffled
from autotune.tasks.part import Part

CPU = torch.device("cpu")
RGB = InputDescription(size=(16, 16), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture
def images() -> Part:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (41, 3, 16, 16), generator=generator).byte()
    return Part(inputs, np.arange(41) % 3)


@pytest.fixture
def normalised(images) -> Part:
    return Part(RGB.normalise(images.inputs), images.labels)


def test_batches_of_bytes_have_the_bits_of_images_normalised_at_once(images, normalised):
    inputs = torch.cat([x for x, _ in batches(images, 8, input=RGB, device=CPU)])
    assert torch.equal(inputs, normalised.inputs)


@pytest.mark.parametrize("augment", ["none", "flip", "crop+flip"])
def test_augmented_batches_of_bytes_have_the_bits_of_normalised_ones(images, normalised, augment):
    options = {"input": RGB, "device": CPU, "augment": augment}
    pairs = zip(
        shuffled(images, 8, generator_of(1, 2), **options),
        shuffled(normalised, 8, generator_of(1, 2), **options),
        strict=True,
    )
    for (x, labels), (expected, expected_labels) in pairs:
        assert torch.equal(x, expected) and torch.equal(labels, expected_labels)


def test_bytes_are_divided_by_255_exactly_as_a_number_would_be():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (RGB.mean, RGB.std))
    assert torch.equal(RGB.normalise(every), (every.float() / 255 - mean) / std)


def test_a_part_of_bytes_travels_as_bytes(images):
    content = pickle.dumps(images)
    assert len(content) < 1.5 * images.inputs.numel()
    assert pickle.loads(content).inputs.dtype == torch.uint8
