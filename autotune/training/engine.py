"""Engine that runs jobs: it attaches a plan, trains, evaluates and reports after every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from autotune.backbones.base import Backbone, fingerprint
from autotune.backbones.inputs import InputDescription
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.units import Units
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import Artifact, from_bytes, to_bytes
from autotune.errors import AutotuneError, OutOfMemory, TrialError
from autotune.problem.job import Job, Progress
from autotune.tasks.base import Task
from autotune.tasks.loading import PartFeed, batches
from autotune.tasks.part import Part
from autotune.training.batchnorm import ReplacedBuffers, estimate_statistics
from autotune.training.checkpoint import flatten, to_checkpoint
from autotune.training.evidence import TaskEvidence
from autotune.training.folds import fold_progress, read_folds
from autotune.training.footprint import footprint
from autotune.training.linear_probe import LinearProbe
from autotune.training.loop import Epoch, Fit, Recipe, evaluate
from autotune.training.out_of_memory import BATCH_SPLITS, free_memory, is_out_of_memory
from autotune.training.prefix.prefix import CachedPrefix, Keeping
from autotune.training.resuming import restore
from autotune.training.trainable import Trainable, trainable

IN_MEMORY = Keeping(memory=2**31)
"""Default cache of the frozen part's outputs: 2 GiB of this process's memory."""


class Engine:
    """Runs jobs on one backbone and one task, each from the backbone's original weights.

    The network belongs to the engine until `close`, which restores everything.
    """

    def __init__(
        self,
        backbone: Backbone,
        units: Units,
        task: Task,
        recipe: Recipe,
        *,
        input: InputDescription | None,
        folds: int = 0,
        seed: int = 0,
        keep_head: bool = False,
        measured: str | None = None,
        keeping: Keeping = IN_MEMORY,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        assert task.val is not None and task.test is not None
        self.backbone, self.units, self.input = backbone, units, input
        self.own_head = backbone.network.get_submodule(backbone.head)
        self.recipe = recipe.suited(backbone.network)
        self.task = task
        self.folds = task.folds(folds, seed) if folds else []
        self.both = task.selectable() if folds else task.train
        self.keep_head, self.measured = keep_head, measured
        self.about = dict(about or {})
        self._buffers = ReplacedBuffers(backbone.network)
        self._snapshot = Snapshot(backbone.network)
        self._evidence: dict[int, tuple[Part, TaskEvidence]] = {}
        self.seed, self.keeping = seed, keeping
        self._original_device = next(backbone.network.parameters()).device
        self._strides = [(p, p.stride()) for p in backbone.network.parameters()]
        self.to(recipe.device)

    def to(self, device: str) -> None:
        """Move the network to a device, in the recipe's memory format."""
        self.recipe = replace(self.recipe, device=device)
        self.backbone.network.to(device)
        self.backbone.network.to(memory_format=self.recipe.memory_format)
        self.prefix = CachedPrefix(
            self.backbone, self.recipe, self.keeping, input=self.input, seed=self.seed
        )

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker, which traces, cuts and caches the network itself."""
        left_out = {"prefix", "_snapshot"}
        state = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return {**state, "_evidence": {}}  # its keys are ids in this process

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._snapshot = Snapshot(self.backbone.network)
        self.to(self.recipe.device)

    @property
    def device(self) -> torch.device:
        return torch.device(self.recipe.device)

    @property
    def prepared(self) -> Mapping[str, Tensor]:
        """Buffers that replace the backbone's; empty unless `prepare` set some."""
        return self._buffers.values

    def statistics(self) -> dict[str, Tensor]:
        """Normalisation statistics of the training inputs; the network itself does not change."""
        return estimate_statistics(
            self.backbone.network, self.task.train, input=self.input, device=self.device
        )

    def prepare(self, buffers: Mapping[str, Tensor]) -> None:
        """Use these buffers in all later jobs; an empty mapping restores the original ones."""
        self._buffers.restore()
        self._forget()
        self._buffers.values = dict(buffers)
        self._buffers.put()

    def close(self) -> None:
        """Restore the network's buffers and attributes, device and memory format."""
        self._buffers.restore()
        self._forget()
        self.backbone.network.to(self._original_device)
        self.backbone.network.to(memory_format=torch.contiguous_format)
        for parameter, stride in self._strides:
            if parameter.stride() != stride:  # a network in channels_last
                data = parameter.data
                parameter.data = data.new_empty_strided(data.shape, stride).copy_(data)
        self._snapshot.restore()

    def __call__(self, job: Job) -> Iterator[Progress]:
        """Run a job; the last progress has the delta file. Raises `TrialError` if it fails.

        When memory runs out, the job resumes from its last checkpoint with each batch in twice as
        many parts, whose gradients accumulate. Raises `OutOfMemory` if a quarter of a batch does
        not fit.
        """
        for parts in BATCH_SPLITS:
            job = replace(job, parts=parts)
            try:
                for progress in self._run(job):
                    job = replace(job, checkpoint=progress.checkpoint or job.checkpoint)
                    yield replace(progress, parts=parts)
                return
            except AutotuneError as error:
                raise TrialError(f"{job.name} ({job.plan}): {error}") from error
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if parts == BATCH_SPLITS[-1]:
                    size = max(1, self.recipe.batch_size // parts)
                    raise OutOfMemory(
                        f"{job.name} ({job.plan}): a step on {size} examples must fit into memory, "
                        "it does not. Use a smaller --batch-size."
                    ) from error
            free_memory()

    def test(self, content: bytes) -> dict[str, float]:
        """Metrics of a delta file on the test part, and `n`, its number of examples."""
        assert self.task.test is not None
        return self.measure(content, self.task.test)

    def measure(self, content: bytes, part: Part) -> dict[str, float]:
        """Metrics of a delta file on any part, and `n`, its number of examples."""
        artifact = from_bytes(content, "the delta file")
        self._buffers.restore()  # the delta file has its own
        try:
            with tuned(self.backbone, artifact) as network:
                feed = PartFeed(part, self.input, self.device)
                metrics = evaluate(network, feed, self.recipe)
        finally:
            self._buffers.put()
        return {**metrics, "n": len(part)}

    def linear_probe(self) -> LinearProbe:
        """Linear probe of the network with its present buffers."""
        about = [self.backbone.fingerprint, fingerprint(self.prepared)]
        self.prefix.look(self.task.train, about)
        classes = len(self.task.classes)
        return LinearProbe(
            self.backbone,
            self.own_head,
            self.units,
            self.prefix,
            classes,
            self.keep_head,
            self.seed,
        )

    def _run(self, job: Job) -> Iterator[Progress]:
        if self.folds and not job.whole:
            yield from self._run_folds(job)
        elif job.whole:
            yield from self._run_epochs(job, self.both, self.both)
        else:
            assert self.task.val is not None
            yield from self._run_epochs(job, self.task.train, self.task.val)

    def _run_epochs(self, job: Job, train: Part, val: Part) -> Iterator[Progress]:
        with self._trainable(job, train, val) as network:
            fit = network.fit(job, self.recipe)
            network.measured = self._footprint(job, network, train)
            if job.checkpoint:
                yield self._resumed(job, fit, network)
            for epoch in fit.epochs(network.train, network.val):
                yield self._progress(job, fit, network, epoch)

    def _run_folds(self, job: Job) -> Iterator[Progress]:
        metrics = read_folds(job.checkpoint, len(self.folds), self.recipe.metric, job.name)
        if metrics:
            yield fold_progress(metrics, self.recipe.metric)
        job = replace(job, checkpoint=None)
        for train, val in self.folds[len(metrics) :]:
            metrics.append(self._final_metrics(job, train, val))
            yield fold_progress(metrics, self.recipe.metric)

    def _final_metrics(self, job: Job, train: Part, val: Part) -> dict[str, float]:
        """Metrics after the last epoch, without a checkpoint or a delta file."""
        with self._trainable(job, train, val) as network:
            fit = network.fit(job, self.recipe)
            measured = self._footprint(job, network, train)
            *_, last = fit.epochs(network.train, network.val)
            return {**last.metrics, **measured}

    def _trainable(self, job: Job, train: Part, val: Part) -> AbstractContextManager[Trainable]:
        probe, resumes = self.linear_probe(), job.checkpoint is not None
        if job.head_rate is not None and not resumes:
            head, _ = probe.fit(train, rate=job.head_rate, seed=job.seed)
        else:
            head = probe.new_head(job.seed)
        return trainable(
            self.backbone,
            self.units,
            self.prefix,
            job,
            head,
            (train, val),
            evidence=None if resumes else self._evidence_of(train),
        )

    def _footprint(self, job: Job, network: Trainable, train: Part) -> dict[str, float]:
        """Latency or memory of one batch, where the study asks for it and the job is a trial."""
        if self.measured is None or job.number < 0:
            return {}
        size = self.recipe.batch_size
        inputs, _ = next(batches(train, size, input=self.input, device=self.device))
        return footprint(
            self.measured,
            self.backbone.network,
            network.deltas,
            network.parameters(),
            inputs,
            self.recipe,
        )

    def _evidence_of(self, train: Part) -> TaskEvidence:
        """Evidence from this part alone, so that with folds no validation data is used."""
        if id(train) not in self._evidence:
            evidence = TaskEvidence(
                self.backbone,
                train,
                input=self.input,
                device=self.device,
                fit_head=lambda: self.linear_probe().fit(train)[0],
            )
            self._evidence[id(train)] = train, evidence
        return self._evidence[id(train)][1]

    def _forget(self) -> None:
        """Drop everything that was computed by the network with its present buffers."""
        self.prefix.forget()
        self._evidence.clear()

    def _progress(self, job: Job, fit: Fit, network: Trainable, epoch: Epoch) -> Progress:
        metrics = {**epoch.metrics, **network.measured}
        is_last = epoch.number == self.recipe.epochs
        return Progress(
            step=epoch.number,
            value=metrics[self.recipe.metric],
            metrics=metrics,
            checkpoint=_checkpoint(fit, network, epoch),
            artifact=self._delta_file(job, network, metrics) if is_last else None,
        )

    def _resumed(self, job: Job, fit: Fit, network: Trainable) -> Progress:
        """Load the job's checkpoint and repeat its progress."""
        assert job.checkpoint is not None
        return self._progress(job, fit, network, restore(job.checkpoint, fit, network, job.name))

    def _delta_file(self, job: Job, network: Trainable, metrics: Mapping[str, float]) -> bytes:
        tuned_units = tuple(unit for unit in self.units if unit.name in job.plan.choices)
        header = {
            "input": self.input.to_json() if self.input else None,
            "cost": asdict(network.deltas.predicted),
            "metrics": {"val": dict(metrics)},
            "task": {"source": self.task.source, "classes": self.task.classes},
            "about": {
                **self.about,
                "head": self.backbone.head,
                **_left_out(self.backbone),
                "seed": job.seed,
                "hyperparameters": dict(job.hyperparameters),
                "trial": job.number,
            },
        }
        tensors = flatten({**network.tensors(), "buffer": self.prepared})
        return to_bytes(Artifact(job.plan, tuned_units, self.backbone.fingerprint, tensors, header))


def _left_out(backbone: Backbone) -> dict[str, list[str]]:
    """Parameters that are no part of the search, where there are any."""
    names = {"unused": sorted(backbone.unused), "protected": sorted(backbone.protected)}
    return {kind: left for kind, left in names.items() if left}


def _checkpoint(fit: Fit, network: Trainable, epoch: Epoch) -> bytes:
    header = {
        "step": epoch.number,
        "metrics": dict(epoch.metrics),
        "trained": network.trained_names(),
    }
    return to_checkpoint({**network.tensors(), "optimizer": fit.state()}, {"progress": header})
