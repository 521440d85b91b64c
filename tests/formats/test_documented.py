"""What docs/formats.md says is enough to read a delta file: a reader without autotune's code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from .network import small
from .test_formats import FOLDER, VERSIONS

DTYPES = {"F32": (np.float32, "torch.float32"), "I64": (np.int64, "torch.int64")}


def read(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """A header, each value of it parsed, and the tensors."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    told = {key: json.loads(value) for key, value in header.pop("__metadata__", {}).items()}
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[first:end], DTYPES[entry["dtype"]][0])
        tensors[name] = values.reshape(entry["shape"])
    return told, tensors


def digest(tensors: dict[str, np.ndarray]) -> str:
    names = dict(DTYPES.values())
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.shape} {names[tensor.dtype.type]} ".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()


def tuned(backbone: dict[str, np.ndarray], told: dict, own: dict[str, np.ndarray]) -> dict:
    """The backbone's tensors with the delta's changes in them."""
    found = dict(backbone)
    for unit, methods in told["plan"]["units"].items():
        for method in methods:
            for name in told["units"][unit]:
                key, w = f"delta/{unit}/{method['name']}/parts.{name}", found[name]
                if method["name"] == "subtune" and key in own:
                    found[name] = own[key]
                elif method["name"] == "lowrank" and f"{key}.a" in own:
                    found[name] = w + (own[f"{key}.b"] @ own[f"{key}.a"]).reshape(w.shape)
                elif method["name"] == "scale" and f"{key}.gain" in own:
                    gain = own[f"{key}.gain"].reshape(-1, *[1] * (w.ndim - 1))
                    found[name] = w + gain * w
                elif method["name"] == "scale" and f"{key}.shift" in own:
                    found[name] = w + own[f"{key}.shift"]
    for key, tensor in own.items():
        if key.startswith("buffer/"):
            found[key.removeprefix("buffer/")] = tensor
        if key.startswith("head/"):
            found[f"{told['about']['head']}.{key.removeprefix('head/')}"] = tensor
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reader_of_the_documentation_gets_the_merged_weights(version):
    told, own = read(FOLDER / version / "delta.safetensors")
    merged_told, merged = read(FOLDER / version / "merged.safetensors")
    state = {name: t.numpy() for name, t in small().network.state_dict().items()}
    body = {name: t for name, t in state.items() if not name.startswith("fc.")}
    assert told["format"] == merged_told["format"] == 1
    assert told["digest"] == digest(own)
    assert told["fingerprint"] == digest(body)
    found = tuned(state, told, own)
    assert found.keys() == merged.keys()
    for name, tensor in merged.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mask_of_tensors_marks_what_the_merged_weights_changed(version):
    content = (FOLDER / version / "mask.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    _, merged = read(FOLDER / version / "merged.safetensors")
    own = {name: t.numpy() for name, t in small().network.state_dict().items()}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        mask = np.frombuffer(content[8 + length :][first:end], bool).reshape(entry["shape"])
        assert entry["dtype"] == "BOOL"
        assert not (merged[name] != own[name])[~mask].any(), name
