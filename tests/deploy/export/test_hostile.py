"""Untrusted files that are damaged, oversized or have malicious names are refused safely."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.deltas.apply import tuned
from autotune.deltas.artifact import from_bytes, to_bytes
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import written
from autotune.deploy.export.from_peft import import_peft
from autotune.deploy.inspection import inspect_file
from autotune.errors import ArtifactError, AutotuneError
from autotune.problem.plan import Choice, Plan

from .subjects import Net

NET = Net("digits")
PLAN = Plan({"layer3.1": Choice.of("lowrank", rank=2), "stem": Choice.of("scale")})
SUBJECT = NET.subject(PLAN)
CONTENT = to_bytes(SUBJECT.artifact)
END = 8 + int.from_bytes(CONTENT[:8], "little")
BEFORE = {name: t.clone() for name, t in NET.backbone.network.state_dict().items()}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


def read(content: bytes) -> None:
    """Load a file onto the backbone; at most `AutotuneError` is raised, and nothing changes."""
    with (
        suppress(AutotuneError),
        tuned(NET.backbone, from_bytes(content, "the file")) as network,
        torch.no_grad(),
    ):
        network(torch.zeros(1, 1, 8, 8))
    state = NET.backbone.network.state_dict()
    assert state.keys() == BEFORE.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in BEFORE.items())


def with_header(metadata: dict[str, str]) -> bytes:
    header = json.loads(CONTENT[8:END])
    text = json.dumps({**header, "__metadata__": metadata}).encode()
    return len(text).to_bytes(8, "little") + text + CONTENT[END:]


METADATA: dict[str, str] = json.loads(CONTENT[8:END])["__metadata__"]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, END - 1), st.integers(1, 255), st.integers(0, len(CONTENT)))
def test_flipped_and_cut(at, mask, end):
    damaged = bytearray(CONTENT)
    damaged[at] ^= mask
    read(bytes(damaged))
    read(CONTENT[:end])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(METADATA)), VALUES)
def test_any_value_in_the_place_of_a_header_field(key, value):
    read(with_header({**METADATA, key: json.dumps(value)}))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=12), st.lists(VALUES, max_size=2), max_size=3))
def test_any_plan(units):
    plan = {"format": 1, "units": units}
    read(with_header({**METADATA, "plan": json.dumps(plan)}))


@pytest.mark.parametrize(
    "options",
    [{"rank": 10**12}, {"rank": 10**400}, {"rank": -1}, {"rank": 2.5}, {"rank": True}, {}],
)
def test_a_size_that_would_fill_memory_is_refused_before_it_is_made(options):
    plan = {"format": 1, "units": {"layer3.1": [{"name": "res_adapter", "options": options}]}}
    with pytest.raises(AutotuneError), tuned(NET.backbone, from_bytes(with_plan(plan), "the file")):
        pass
    methods = [{"name": "res_adapter", "options": {"width": 10**7}}]
    wide = from_bytes(with_plan({"format": 1, "units": {"layer3.1": methods}}), "the file")
    stored = r"its plan stores [0-9,]+ values, the file has"
    with pytest.raises(ArtifactError, match=stored), tuned(NET.backbone, wide):
        pass


def with_plan(plan: dict) -> bytes:
    return with_header({**METADATA, "plan": json.dumps(plan)})


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "a/../../b", "C:\\x", "\0", "x" * 5000]
)
def test_tricks_in_names_name_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    header = json.loads(CONTENT[8:END])
    key = next(k for k in header if k.startswith("delta/"))
    header[f"delta/{name}"] = header.pop(key)
    text = json.dumps(header).encode()
    read(len(text).to_bytes(8, "little") + text + CONTENT[END:])
    parameters = next(iter(json.loads(METADATA["units"]).values()))
    read(with_header({**METADATA, "units": json.dumps({name: parameters})}))
    assert list(tmp_path.iterdir()) == []


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx", ".json"])
def test_a_pickle_with_the_right_suffix_is_not_unpickled(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(f"evil{suffix}")
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ArtifactError):
        inspect_file(file)
    with pytest.raises(ArtifactError):
        from_bytes(file.read_bytes(), str(file))
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text('{"peft_type": "LORA"}')
    Path("adapter/adapter_model.safetensors").write_bytes(file.read_bytes())
    Path("adapter/adapter_model.bin").write_bytes(file.read_bytes())
    with pytest.raises(ArtifactError):
        import_peft("adapter", NET.backbone)
    assert not Path("executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mask", "delta", "merged", "module", "onnx"])
def test_damaged_exports_are_inspected_in_words(form, tmp_path):
    kind = FORMATS.load(form)
    file = tmp_path / kind.file
    written(kind(), SUBJECT, file)
    header = inspect_file(file)
    assert header["fingerprint"] == NET.backbone.fingerprint
    assert header["format"] == 1
    content = file.read_bytes()
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        damaged = bytearray(content)
        at = int(torch.randint(min(len(content), 4000), (), generator=draw))
        damaged[at] ^= 1 << int(torch.randint(8, (), generator=draw))
        file.write_bytes(bytes(damaged) if at % 2 else content[:at])
        with suppress(ArtifactError):
            inspect_file(file)
