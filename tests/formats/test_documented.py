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
    metadata = {key: json.loads(value) for key, value in header.pop("__metadata__", {}).items()}
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[first:end], DTYPES[entry["dtype"]][0])
        tensors[name] = values.reshape(entry["shape"])
    return metadata, tensors


def digest(tensors: dict[str, np.ndarray]) -> str:
    names = dict(DTYPES.values())
    computed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        computed.update(f"{name} {tensor.shape} {names[tensor.dtype.type]} ".encode())
        computed.update(tensor.tobytes())
    return computed.hexdigest()


def tuned(
    backbone: dict[str, np.ndarray], metadata: dict, delta_tensors: dict[str, np.ndarray]
) -> dict:
    """The backbone's tensors with the delta's changes in them."""
    computed = dict(backbone)
    for unit, methods in metadata["plan"]["units"].items():
        for method in methods:
            for name in metadata["units"][unit]:
                key, w = f"delta/{unit}/{method['name']}/parts.{name}", computed[name]
                if method["name"] == "subtune" and key in delta_tensors:
                    computed[name] = delta_tensors[key]
                elif method["name"] == "lowrank" and f"{key}.a" in delta_tensors:
                    computed[name] = w + (
                        delta_tensors[f"{key}.b"] @ delta_tensors[f"{key}.a"]
                    ).reshape(w.shape)
                elif method["name"] == "scale" and f"{key}.gain" in delta_tensors:
                    gain = delta_tensors[f"{key}.gain"].reshape(-1, *[1] * (w.ndim - 1))
                    computed[name] = w + gain * w
                elif method["name"] == "scale" and f"{key}.shift" in delta_tensors:
                    computed[name] = w + delta_tensors[f"{key}.shift"]
    for key, tensor in delta_tensors.items():
        if key.startswith("buffer/"):
            computed[key.removeprefix("buffer/")] = tensor
        if key.startswith("head/"):
            computed[f"{metadata['about']['head']}.{key.removeprefix('head/')}"] = tensor
    return computed


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reader_of_the_documentation_gets_the_merged_weights(version):
    metadata, delta_tensors = read(FOLDER / version / "delta.safetensors")
    merged_told, merged = read(FOLDER / version / "merged.safetensors")
    state = {name: t.numpy() for name, t in small().network.state_dict().items()}
    body = {name: t for name, t in state.items() if not name.startswith("fc.")}
    assert metadata["format"] == merged_told["format"] == 1
    assert metadata["digest"] == digest(delta_tensors)
    assert metadata["fingerprint"] == digest(body)
    computed = tuned(state, metadata, delta_tensors)
    assert computed.keys() == merged.keys()
    for name, tensor in merged.items():
        np.testing.assert_allclose(computed[name], tensor, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mask_of_tensors_marks_what_the_merged_weights_changed(version):
    content = (FOLDER / version / "mask.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    _, merged = read(FOLDER / version / "merged.safetensors")
    delta_tensors = {name: t.numpy() for name, t in small().network.state_dict().items()}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        mask = np.frombuffer(content[8 + length :][first:end], bool).reshape(entry["shape"])
        assert entry["dtype"] == "BOOL"
        assert not (merged[name] != delta_tensors[name])[~mask].any(), name
