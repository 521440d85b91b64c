"""`autotune export` and `import`: an answer, a trial or a file, in a form that others read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autotune.backbones import load_backbone
from autotune.deltas.artifact import read_artifact, read_header
from autotune.deltas.loading import load_adapted
from autotune.deploy.export import FORMATS
from autotune.run.notebook import Study


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return dict(read_artifact(file).tensors)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def here(call, tmp_path, monkeypatch):
    """Runs a command in a folder of its own: what it says as JSON."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object):
        code, out, err = call(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS.names())
def test_every_format_of_a_run(here, finished, form):
    output = here("export", finished, "--format", form)
    assert output["path"] == FORMATS.load(form).file
    assert Path(output["path"]).exists()
    assert {f.name for f in Path().iterdir()} == {output["path"]}
    assert (output["difference"] is None) == (form == "mask")


def test_a_trial_and_the_best_below_a_smaller_budget(here, shown, finished):
    status = shown("status", finished)
    number = next(t.number for t in Study(finished).trials if t.is_complete)
    here("export", finished, "--format", "delta", "--trial", number)
    kept = finished / "trials" / f"{number:04}" / "delta.safetensors"
    assert equal(tensors(Path("delta.safetensors")), tensors(kept))
    tried = [t for t in Study(finished).trials if t.is_complete and not t.baseline]
    limit = min(t.cost.parameters for t in tried)
    within = ("--within", limit, "--retrain")  # a reference that was admitted has no file
    here("export", finished, "--format", "delta", *within, "-o", "small.safetensors")
    assert read_header(Path("small.safetensors"))["cost"]["parameters"] <= limit
    assert status["best"]["cost"]["parameters"] >= limit


@pytest.mark.slow
def test_a_delta_that_was_not_kept_is_trained_again(here, call, finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    number = next(t.number for t in Study(copy).trials if t.is_complete)
    kept = tensors(copy / "trials" / f"{number:04}" / "delta.safetensors")
    shutil.rmtree(copy / "trials")
    code, _, err = call("export", copy, "--format", "delta", "--trial", number)
    assert (code, "--retrain" in err) == (2, True)
    here("export", copy, "--format", "delta", "--trial", number, "--retrain")
    assert equal(tensors(Path("delta.safetensors")), kept)


def test_a_delta_file_alone_names_its_backbone(here, finished, tmp_path):
    shutil.copy(finished / "best" / "delta.safetensors", tmp_path / "given.safetensors")
    here("export", "given.safetensors", "--format", "mask")
    here("export", finished, "--format", "mask", "-o", "of-run.json")
    assert json.loads(Path("mask.json").read_text()) == json.loads(Path("of-run.json").read_text())
    here("export", "given.safetensors", "--format", "merged", "--backbone", "builtin:digits")
    network = load_backbone("builtin:digits").network
    network.load_state_dict(load_file("merged.safetensors"), strict=True)
    other = load_adapted(load_backbone("builtin:digits"), "given.safetensors")
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network.eval()(images), other(images))


def test_another_backbone_is_refused(call, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = load_backbone("builtin:digits").network
    from safetensors.torch import save_file

    save_file({k: v + 1e-3 for k, v in network.state_dict().items()}, "other.safetensors")
    options = ("--weights", "other.safetensors")
    code, _, err = call("export", finished, "--format", "merged", *options)
    assert (code, "wants fingerprint" in err) == (2, True)
    assert [f.name for f in Path().iterdir()] == ["other.safetensors"]


def test_there_and_back_through_peft(here, finished):
    here("export", finished, "--format", "peft", "-o", "adapter")
    output = here("import", "adapter", "--backbone", "builtin:digits")
    assert output["path"] == "delta.safetensors"
    again = load_adapted(load_backbone("builtin:digits"), "delta.safetensors")
    tuned = load_adapted(load_backbone("builtin:digits"), finished / "best" / "delta.safetensors")
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(again(images), tuned(images), rtol=1e-5, atol=1e-5)
    here("export", "delta.safetensors", "--format", "mask")


def test_an_adapter_is_never_written_over(call, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("adapter").mkdir()
    code, _, err = call("export", finished, "--format", "peft")
    assert (code, "needs a new folder" in err) == (2, True)


@pytest.mark.slow
def test_python_sources_are_named_again(call, here, tmp_path):
    """What a run folder names as code runs only when the user names it, too."""
    source = f"python:{tmp_path / 'net.py'}:make"
    Path("net.py").write_text(
        "from autotune.backbones import load_backbone\n"
        "def make():\n    return load_backbone('builtin:digits').network\n"
    )
    Path("input.yaml").write_text("size: 8\nchannels: 1\nmean: [0]\nstd: [1]\n")
    named = ("--backbone", source)
    begin = (*named, "--input", "input.yaml", "--space", "digits", "--strategy", "random")
    assert (
        call("search", *begin, "--trials", 1, "--epochs", 1, "--no-references", "--out", "run")[0]
        == 0
    )
    here("evaluate", "run", *named)
    here("export", "run", *named, "--format", "merged", "-o", "merged")
    code, _, err = call("export", "run/best/delta.safetensors")
    assert (code, "Add --backbone" in err) == (2, True)
    here("export", "run/best/delta.safetensors", *named)
    assert here("status", "run")["resume"] == f"autotune resume run --backbone {source}"
