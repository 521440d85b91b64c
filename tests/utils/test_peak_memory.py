"""Peak memory is in bytes on every platform."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.utils.peak_memory import maxrss_unit, peak_memory


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_unit_of_maxrss_depends_on_the_platform(platform, unit):
    assert maxrss_unit(platform) == unit


@pytest.mark.slow
def test_peak_memory_grows_by_the_bytes_of_a_large_array():
    before = peak_memory()
    array = np.ones(2**25 + before // 8)  # more than the process ever held
    assert peak_memory() >= array.nbytes
    assert peak_memory() < 4 * array.nbytes, "bytes and not KiB of bytes"
