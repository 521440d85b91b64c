"""What is recorded before the first trial: the preparation, the problem, trials of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from autotune.errors import RunError, brief, first_line
from autotune.problem.problem import Problem
from autotune.run.related import open_run
from autotune.session.identity import identity_of
from autotune.session.policy_stage import open_supernet
from autotune.session.preparation import buffer_cost, settle_preparation
from autotune.session.setup import Setup
from autotune.study.driver import create
from autotune.study.run_folder import RunFolder
from autotune.study.selection.unit_profiles import as_trials
from autotune.study.stages import DIGESTS, PREPARATION, versioned
from autotune.study.trial_record import problem_to_json
from autotune.study.writer import Writer
from autotune.utils.events import tell
from autotune.utils.files import digest_of


def create_study(folder: RunFolder, setup: Setup, *, may_exist: bool = False) -> None:
    """Create the study of a run folder, with nothing done yet.

    With `may_exist`, one whose creation was interrupted is completed.
    """
    attributes = {"identity": identity_of(setup)}
    create(folder, setup.settings.storage, setup.problem, attributes, may_exist=may_exist)


def check_related(setup: Setup) -> None:
    """Raise `ConfigError` for `--supernet` or `--profile` with a run of another training."""
    supernet, profile = setup.settings.supernet, setup.settings.profile
    if supernet is not None:
        open_supernet(supernet, identity_of(setup), None)
    if profile is not None:
        open_run(profile, "--profile", identity_of(setup), None)


def prepare_study(setup: Setup, writer: Writer) -> None:
    """Settle the preparation and record it last, with everything that depends on it before.

    Interrupted, it is done again up to the trainings that are recorded.
    """
    buffers, records = settle_preparation(setup, writer)
    problem = setup.problem.charged(buffer_cost(buffers))
    stored = {name: versioned(record.to_json()) for name, record in records.items()}
    settled = stored.pop(PREPARATION)
    if setup.settings.supernet is not None:
        open_supernet(setup.settings.supernet, writer.identity, settled["bnstats"])
    if not writer.study.get_trials(deepcopy=False):
        writer.study.add_trials(_profiled(setup, problem, settled["bnstats"]))
    if buffers:
        content = save_tensors(dict(buffers))
        writer.folder.write(writer.folder.prepared, content)
        writer.write(f"{DIGESTS}:{writer.folder.prepared.name}", digest_of(content))
    writer.write_all({**stored, "problem": problem_to_json(problem), PREPARATION: settled})


def prepared_buffers(writer: Writer, network: nn.Module) -> Mapping[str, Tensor]:
    """Buffers that the preparation settled on; empty if statistics were not re-estimated.

    Raises `RunError` if their file is missing or another one, as trials would be compared on
    different backbones, or if they are not the network's.
    """
    file = writer.folder.prepared
    content, digest = writer.folder.read(file), writer.attribute(f"{DIGESTS}:{file.name}")
    expects_one = writer.preparation is not None and writer.preparation.bnstats == "on"
    if content is None and not expects_one:
        return {}
    if content is None or (digest is not None and digest_of(content) != digest):
        raise RunError(
            f"A run continues with the statistics that it began with, {file} is "
            f"{'missing' if content is None else 'not the file that was written'}. Restore it, or "
            "search again."
        )
    return read_buffers(content, str(file), network)


def read_buffers(content: bytes, file: str, network: nn.Module) -> Mapping[str, Tensor]:
    """Buffers of a network in a file; raises `RunError` for any others, or another file."""
    try:
        buffers = load_tensors(content)
        misfits = [name for name, value in buffers.items() if not _fits(value, network, name)]
    except (SafetensorError, AttributeError, ValueError) as error:
        raise _no_statistics(file, first_line(error)) from error
    if misfits:
        raise _no_statistics(file, f"{misfits[0]} has another shape or dtype")
    return buffers


def _fits(value: Tensor, network: nn.Module, name: str) -> bool:
    buffer = network.get_buffer(name)
    return value.shape == buffer.shape and value.dtype == buffer.dtype


def _no_statistics(file: str, reason: str) -> RunError:
    return RunError(
        f"Prepared statistics must be buffers of the backbone, {file} is not a file of these "
        f"({brief(reason)}). Restore it, or search again."
    )


def _profiled(setup: Setup, problem: Problem, statistics: str) -> Sequence[Any]:
    """Trials of `--profile`, which come in addition to the requested number of trials."""
    if setup.settings.profile is None:
        return ()
    profile = open_run(setup.settings.profile, "--profile", identity_of(setup), statistics)
    trials = as_trials(profile, problem, setup.grids)
    tell("profile", f"{len(trials)} trials of {profile.folder.path} are known from the beginning.")
    return trials
