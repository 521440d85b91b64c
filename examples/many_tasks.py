"""Two tasks on one backbone: layers that their networks have in common run once.

Each search writes a delta file; `MultiTask` computes all of them, and more can be added later.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import autotune


def inputs(shift: str) -> torch.Tensor:
    """Four images of a task."""
    return autotune.load_task(f"builtin:digits-{shift}", None).train.inputs[:4]


def main(out: str | None = None, **settings: int) -> None:
    backbone = autotune.load_backbone("builtin:digits")
    with TemporaryDirectory() as folder:
        deltas = {}
        for shift in ("inverted", "rotated"):
            run = str(Path(out or folder) / shift)
            study = autotune.search(backbone, f"builtin:digits-{shift}", "1%", out=run, **settings)
            deltas[shift] = study.best.artifact
            size = study.best.artifact.stat().st_size
            print(f"{shift}: test {study.best.test['accuracy']:.3f}, a file of {size:,} bytes")

        multi = autotune.MultiTask(backbone, {"inverted": deltas["inverted"]})
        multi.add("rotated", deltas["rotated"])
        images = torch.cat([inputs("inverted"), inputs("rotated")])
        for task, logits in multi(images).items():
            print(f"All images by {task}: {logits.argmax(1).tolist()}")
        rows = multi.by_row(images, ["inverted"] * 4 + ["rotated"] * 4)
        print(f"Each by its own task: {[int(logits.argmax()) for logits in rows]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
