"""Read exports with the library of their format alone, without autotune, and print differences.

`python stranger.py FORMAT FOLDER`: each subfolder contains `case.json` (`net`, `classes`),
`batches` (inputs and expected outputs) and the export itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.modules["autotune"] = None  # type: ignore[assignment]
sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402
from plain import network  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


def merged(file: Path, net: str, classes: int):
    made = network(net, classes)
    made.load_state_dict(load_file(file), strict=True)
    return made


def module(file: Path, net: str, classes: int):
    return torch.export.load(file).module()


def onnx(file: Path, net: str, classes: int):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"input": x.numpy()})[0])


def peft(file: Path, net: str, classes: int):
    from peft import PeftModel

    made = network(net)
    head = made.heads.head if net == "vit" else made.fc
    new = torch.nn.Linear(head.in_features, classes)
    if net == "vit":
        made.heads.head = new
    else:
        made.fc = new
    return PeftModel.from_pretrained(made, str(file)).eval()


def differences(form: str, folder: Path) -> dict[str, list[float]]:
    by_case = {}
    for case in sorted(folder.iterdir()):
        setup, batches = json.loads((case / "case.json").read_text()), load_file(case / "batches")
        model = globals()[form](case / form, setup["net"], setup["classes"])
        with torch.no_grad():
            pairs = [(model(batches[f"x{n}"]), batches[f"y{n}"]) for n in (1, 4)]
        by_case[case.name] = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
    return by_case


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(differences(sys.argv[1], Path(sys.argv[2]))))
