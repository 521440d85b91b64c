"""scikit-learn's 1,797 handwritten digits in two halves: one to pretrain on, one for tasks."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@cache
def halves() -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """(pretraining, task) halves, stratified by class: images (n, 1, 8, 8) in 0..1, labels (n,)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    first, second, y_first, y_second = train_test_split(
        x, y, test_size=0.5, stratify=y, random_state=0
    )
    return (first, y_first), (second, y_second)
