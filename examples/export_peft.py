"""Export the result of a search as a PEFT adapter, which `peft` loads without autotune.

Low rank becomes LoRA with a rank per layer; other changed layers are saved as a whole.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel

import autotune


def main(out: str | None = None, **settings: int) -> None:
    with TemporaryDirectory() as folder:
        runs = Path(out or folder)
        study = autotune.search(budget="1%", out=str(runs / "run"), **settings)
        print(f"Plan: {study.best.plan}")
        adapter = autotune.export_model(study.folder.path, "peft", runs / "adapter").path
        print("The adapter:", *sorted(file.name for file in adapter.iterdir()))

        inputs = torch.rand(4, 1, 8, 8)
        backbone = autotune.load_backbone("builtin:digits")
        with autotune.adapted(backbone, study.best.artifact) as network, torch.no_grad():
            ours = network(inputs)
        bare = autotune.load_backbone("builtin:digits").network
        with torch.no_grad():
            expected = PeftModel.from_pretrained(bare, str(adapter)).eval()(inputs)
        print(f"Outputs with peft differ by {(ours - expected).abs().max():.1g} at most.")


if __name__ == "__main__":
    main(*sys.argv[1:])
