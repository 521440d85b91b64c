"""The engine: a job's plan is attached, trained and evaluated, and told epoch by epoch."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from autotune.backbones.base import Backbone, fingerprint, new_head
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Units
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import Artifact, from_bytes, to_bytes
from autotune.deltas.attach import Deltas
from autotune.deltas.seeding import seeded
from autotune.deltas.site import sites
from autotune.deltas.surgery import exchanged
from autotune.errors import AutotuneError, OutOfMemory, TrialError
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Plan
from autotune.tasks.base import Task
from autotune.tasks.loading import Feed, PartFeed, batches, normalised
from autotune.tasks.part import Part
from autotune.tasks.splits import halved
from autotune.training.batchnorm import estimate_statistics
from autotune.training.evidence import TaskEvidence
from autotune.training.footprint import latency, memory
from autotune.training.loop import Epoch, Fit, Group, Recipe, evaluate
from autotune.training.oneshot.supernet import Choices, Supernet
from autotune.training.oneshot.trainer import OneShot
from autotune.training.oneshot.unit_scores import unit_values
from autotune.training.prefix.prefix import Keeping, Trunk

SCORING_RATE = 0.01
"""Learning rate of the head that weights are scored with."""

SCORED = 32
"""Examples of each half that criteria look at, one by one."""

ROUGHLY, TOGETHER = 64, 16
"""Examples of scores that only serve a supernet, and how many of them are squared together."""


BATCH_SPLITS = 1, 2, 4
"""Parts that a batch is trained in, one after the other, when it does not fit into memory."""


IN_MEMORY = Keeping(memory=2**31)


@dataclass
class _Network:
    """What one job trains: a network, or what is behind its cut, and what that reads."""

    head: nn.Module
    deltas: Deltas
    forward: nn.Module
    train: Feed
    val: Feed

    measured: Mapping[str, float] = field(default_factory=dict)
    """What a plan costs while it runs, where that is asked for."""


class Engine:
    """Runs jobs on one backbone and one task, each from the backbone's own weights.

    The network belongs to the engine until `close`, which puts everything back.
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
        self.backbone, self.units, self.recipe, self.input = backbone, units, recipe, input
        self.task = replace(
            task,
            train=normalised(task.train, input),
            val=normalised(task.val, input),
            test=normalised(task.test, input),
        )
        self.folds = self.task.folds(folds, seed) if folds else []
        self.both = self.task.selectable() if folds else self.task.train
        self.keep_head, self.measured = keep_head, measured
        self.about = dict(about or {})
        self.prepared: dict[str, Tensor] = {}
        self._originals: dict[str, Tensor] = {}
        self._found: dict[int, tuple[Part, TaskEvidence]] = {}
        self.seed, self.keeping = seed, keeping
        self._home = next(backbone.network.parameters()).device
        self.to(recipe.device)

    def to(self, device: str) -> None:
        """Move the network, its layers in the recipe's order."""
        self.recipe = replace(self.recipe, device=device)
        self.backbone.network.to(device)
        self.backbone.network.to(memory_format=self.recipe.memory_format)
        self.trunk = Trunk(
            self.backbone.network, self.recipe, self.keeping, input=self.input, seed=self.seed
        )

    def __getstate__(self) -> dict[str, Any]:
        """To travel to a worker, which cuts and keeps by itself."""
        return {name: value for name, value in self.__dict__.items() if name != "trunk"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self.to(self.recipe.device)

    def statistics(self) -> dict[str, Tensor]:
        """Normalisation statistics of the training inputs; the network is left as it is."""
        return estimate_statistics(
            self.backbone.network, self.task.train, input=self.input, device=self._device
        )

    def prepare(self, buffers: Mapping[str, Tensor]) -> None:
        """From now on the backbone has these buffers; none of them means as it was loaded."""
        self._restore()
        self._forget()
        self.prepared = dict(buffers)
        self._put_prepared()

    def close(self) -> None:
        """The network as it was given."""
        self._restore()
        self._forget()
        self.backbone.network.to(self._home)
        self.backbone.network.to(memory_format=torch.contiguous_format)

    def __call__(self, job: Job) -> Iterator[Progress]:
        """Run a job; the last progress has the delta file. Raises `TrialError` when it fails.

        Out of memory, it goes on from its last checkpoint with each batch in twice as many parts,
        gradients added up; `OutOfMemory` when even a quarter of a batch does not fit.
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
                if not _is_memory(error):
                    raise
                if parts == BATCH_SPLITS[-1]:
                    size = max(1, self.recipe.batch_size // parts)
                    raise OutOfMemory(
                        f"{job.name} ({job.plan}): a step on {size} examples must fit into memory, "
                        "it does not. Use a smaller --batch-size."
                    ) from error
            _free_memory()

    def _run(self, job: Job) -> Iterator[Progress]:
        if self.folds and not job.whole:
            yield from self._by_fold(job)
        elif job.whole:
            yield from self._by_epoch(job, self.both, self.both)
        else:
            assert self.task.val is not None
            yield from self._by_epoch(job, self.task.train, self.task.val)

    def test(self, content: bytes) -> dict[str, float]:
        """Metrics of a delta file on the test part, and `n`."""
        assert self.task.test is not None
        return self.measure(content, self.task.test)

    def measure(self, content: bytes, part: Part) -> dict[str, float]:
        """Metrics of a delta file on any part, and `n`."""
        artifact = from_bytes(content, "the delta file")
        self._restore()
        try:
            with tuned(self.backbone, artifact) as network:
                feed = PartFeed(part, self.input, self._device)
                metrics = evaluate(network, feed, self.recipe)
        finally:
            self._put_prepared()
        return {**metrics, "n": len(part)}

    @contextmanager
    def oneshot(
        self, choices: Choices, rates: Mapping[str, float], head_rates: Sequence[float]
    ) -> Iterator[OneShot]:
        """All choices on the network at once, for a short training; off again afterwards.

        One half of the training part trains, with a head fitted to it before, at the rate that is
        best on the other half; nothing of validation and test is looked at.
        """
        parts = halved(self.task.train, self.seed)
        head, head_rate = self._best_head(parts, head_rates)
        network = self.backbone.network
        evidence = TaskEvidence(
            self.backbone,
            parts[0],
            input=self.input,
            device=self._device,
            fit_head=lambda: head,
            together=TOGETHER,
            examples=ROUGHLY,
        )
        with exchanged(network, self.backbone.head, head):
            supernet = Supernet(
                network,
                self.units,
                choices,
                seed=self.seed,
                flow=self.units.flow,
                evidence=evidence,
            )
            try:
                yield OneShot(
                    supernet,
                    {**rates, "lr:head": head_rate},
                    parts,
                    self.recipe,
                    input=self.input,
                    seed=self.seed,
                )
            finally:
                supernet.detach()

    def criterion(
        self, name: str, head_rates: Sequence[float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Unit → what a criterion says of it, on each of two halves of the training part."""
        parts = halved(self.task.train, self.seed)
        head, _ = self._best_head(parts, head_rates)
        found = sites(self.backbone.network, self.units, self.units.flow)
        first, second = (
            unit_values(
                name,
                found,
                TaskEvidence(
                    self.backbone,
                    part,
                    input=self.input,
                    device=self._device,
                    fit_head=lambda: head,
                    examples=SCORED,
                ),
            )
            for part in parts
        )
        return first, second

    # one job

    def _by_epoch(self, job: Job, train: Part, val: Part) -> Iterator[Progress]:
        with ExitStack() as stack:
            built = self._build(stack, job, train, val)
            fit = self._fit(built, job)
            if job.number >= 0:
                built.measured = self._footprint(built, train)
            if job.checkpoint:
                yield self._resume(job, fit, built)
            for epoch in fit.epochs(built.train, built.val):
                yield self._progress(job, fit, built, epoch)

    def _by_fold(self, job: Job) -> Iterator[Progress]:
        values = _fold_values(job.checkpoint)
        if values:
            yield self._fold_progress(values)
        for train, val in self.folds[len(values) :]:
            *_, last = self._by_epoch(replace(job, checkpoint=None), train, val)
            values.append(dict(last.metrics))
            yield self._fold_progress(values)

    def _fold_progress(self, values: list[dict[str, float]]) -> Progress:
        means = {key: sum(v[key] for v in values) / len(values) for key in values[0]}
        state = save_tensors({"none": torch.zeros(1)}, {"folds": json.dumps(values)})
        by_fold = tuple(v[self.recipe.metric] for v in values)
        return Progress(len(values), means[self.recipe.metric], means, state, folds=by_fold)

    def _build(self, stack: ExitStack, job: Job, train: Part, val: Part) -> _Network:
        network = self.backbone.network
        self._look()
        head = self._first_head(job, train)
        stack.enter_context(exchanged(network, self.backbone.head, head))
        deltas = Deltas(
            network,
            self.units,
            job.plan,
            seed=job.seed,
            flow=self.units.flow,
            evidence=None if job.checkpoint else self._evidence(train),
        )
        stack.callback(deltas.detach)
        head.requires_grad_(True)
        head.train()
        deltas.train()
        if deltas.cost() != deltas.predicted:
            raise TrialError(f"A plan must cost {deltas.predicted}, it costs {deltas.cost()}.")
        size = max(1, self.recipe.batch_size // job.parts)
        return _Network(head, deltas, *self.trunk.split(train, val, size))

    def _footprint(self, built: _Network, train: Part) -> dict[str, float]:
        """`latency` or `memory` of one batch, where the study wants it beside the value."""
        if self.measured is None:
            return {}
        network, size = self.backbone.network, self.recipe.batch_size
        inputs, _ = next(batches(train, size, input=self.input, device=self._device))
        if self.measured == "memory":
            trained = [*built.deltas.parameters(), *built.head.parameters()]
            return {"memory": float(memory(network, trained, inputs))}
        return {"latency": latency(network, built.deltas, inputs)}

    def _first_head(self, job: Job, train: Part) -> nn.Module:
        """A new head, or that of a linear probe with the job's seed."""
        if job.head_rate is not None and job.checkpoint is None:
            return self._fitted_head(train, rate=job.head_rate, seed=job.seed)[0]
        with seeded(job.seed, "head"):
            return self._head(self.backbone.network.get_submodule(self.backbone.head))

    def _fit(self, built: _Network, job: Job) -> Fit:
        return Fit(
            built.forward,
            self._groups(built, job),
            self.recipe,
            seed=job.seed,
            weight_decay=job.hyperparameters.get("weight_decay", 0.0),
            parts=job.parts,
        )

    def _head(self, old: nn.Module) -> nn.Module:
        classes = len(self.task.classes)
        if self.keep_head and len(old.weight) == classes:  # type: ignore[arg-type]
            return copy.deepcopy(old)
        return new_head(old, classes)

    def _groups(self, built: _Network, job: Job) -> list[Group]:
        rates = job.hyperparameters
        methods = [
            Group(f"{unit} {method}", list(delta.parameters()), rates[f"lr:{method}"])
            for (unit, method), delta in built.deltas.by_place.items()
        ]
        return [*methods, Group("the head", list(built.head.parameters()), rates["lr:head"])]

    def _look(self) -> None:
        about = [self.backbone.fingerprint, fingerprint(self.prepared)]
        self.trunk.look(self.task.train, about)

    def _evidence(self, train: Part) -> TaskEvidence:
        """Of this part alone, so that with folds no validation data is looked at."""
        if id(train) not in self._found:
            evidence = TaskEvidence(
                self.backbone,
                train,
                input=self.input,
                device=self._device,
                fit_head=lambda: self._fitted_head(train)[0],
            )
            self._found[id(train)] = train, evidence
        return self._found[id(train)][1]

    def _best_head(
        self, parts: tuple[Part, Part], rates: Sequence[float]
    ) -> tuple[nn.Module, float]:
        """A head trained on the first part at the rate that is best on the second.

        Where the frozen network must run for every step, only the middle rate is tried.
        """
        self._look()
        if not self.trunk.keeps:
            rates = sorted(rates)[(len(rates) - 1) // 2 :][:1]
        found = [(self._fitted_head(parts[0], look=parts[1], rate=rate), rate) for rate in rates]
        (head, _), rate = max(found, key=lambda tried: tried[0][1])
        return head, rate

    def _fitted_head(
        self,
        train: Part,
        *,
        look: Part | None = None,
        rate: float = SCORING_RATE,
        seed: int | None = None,
    ) -> tuple[nn.Module, float]:
        """A head trained on the frozen network, for gradients to describe the network's weights.

        And its value on the part that is looked at.
        """
        seed = self.seed if seed is None else seed
        job = Job("linear probe", Plan(), {"lr:head": rate}, seed)
        with ExitStack() as stack:
            built = self._build(stack, job, train, look or train)
            *_, last = self._fit(built, job).epochs(built.train, built.val)
            return built.head, last.metrics[self.recipe.metric]

    # what is told

    def _progress(self, job: Job, fit: Fit, built: _Network, epoch: Epoch) -> Progress:
        metrics = {**epoch.metrics, **built.measured}
        done = epoch.number == self.recipe.epochs
        header = {
            "step": epoch.number,
            "metrics": dict(epoch.metrics),
            "trained": _trained(built),
        }
        return Progress(
            step=epoch.number,
            value=metrics[self.recipe.metric],
            metrics=metrics,
            checkpoint=_checkpoint(fit, built, header),
            artifact=self._artifact(job, built, metrics) if done else None,
        )

    def _resume(self, job: Job, fit: Fit, built: _Network) -> Progress:
        assert job.checkpoint is not None
        tensors = load_tensors(job.checkpoint)
        header = _header(job.checkpoint)["progress"]
        built.deltas.load(_of(tensors, "delta"))
        built.head.load_state_dict(_of(tensors, "head"))
        fit.restore(_of(tensors, "optimizer"), header["step"])
        if header["trained"] != _trained(built):
            raise TrialError(
                f"A checkpoint goes on with the tensors that trained before, that of {job.name} "
                "has others. Start a new search."
            )
        epoch = Epoch(header["step"], 0.0, header["metrics"])
        return self._progress(job, fit, built, epoch)

    def _artifact(self, job: Job, built: _Network, metrics: Mapping[str, float]) -> bytes:
        tuned_units = tuple(unit for unit in self.units if unit.name in job.plan.choices)
        header = {
            "input": self.input.to_json() if self.input else None,
            "cost": asdict(built.deltas.predicted),
            "metrics": {"val": dict(metrics)},
            "task": {"source": self.task.source, "classes": self.task.classes},
            "about": {
                **self.about,
                "head": self.backbone.head,
                "seed": job.seed,
                "hyperparameters": dict(job.hyperparameters),
                "trial": job.number,
            },
        }
        tensors = {
            **_prefixed("delta", built.deltas.tensors()),
            **_prefixed("head", built.head.state_dict()),
            **_prefixed("buffer", self.prepared),
        }
        artifact = Artifact(
            job.plan, tuned_units, self.backbone.fingerprint, _plain(tensors), header
        )
        return to_bytes(artifact)

    @property
    def _device(self) -> torch.device:
        return torch.device(self.recipe.device)

    def _put_prepared(self) -> None:
        for name, value in self.prepared.items():
            mine = self.backbone.network.get_buffer(name)
            self._originals[name] = mine.clone()
            mine.copy_(value)

    def _forget(self) -> None:
        """What was found on the network as it is."""
        self.trunk.forget()
        self._found.clear()

    def _restore(self) -> None:
        for name, value in self._originals.items():
            self.backbone.network.get_buffer(name).copy_(value)
        self._originals.clear()


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in torch's own allocator, or in Python."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or "can't allocate memory" in str(error)


def _free_memory() -> None:
    """What a failed step held; the error that held its frames is gone by now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _checkpoint(fit: Fit, built: _Network, header: Mapping[str, Any]) -> bytes:
    tensors = {
        **_prefixed("delta", built.deltas.tensors()),
        **_prefixed("head", built.head.state_dict()),
        **_prefixed("optimizer", fit.state()),
    }
    return save_tensors(_plain(tensors), {"progress": json.dumps(header)})


def _trained(built: _Network) -> dict[str, list[str]]:
    """Names of the parameters that take gradients, of the deltas and of the network around them."""
    deltas = {
        f"{unit}/{method}/{name}": parameter
        for (unit, method), delta in built.deltas.by_place.items()
        for name, parameter in delta.named_parameters()
    }
    kinds = {"delta": deltas, "network": dict(built.deltas.network.named_parameters())}
    return {k: sorted(n for n, p in of.items() if p.requires_grad) for k, of in kinds.items()}


def _prefixed(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": tensor for name, tensor in tensors.items()}


def _of(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    prefix = kind + "/"
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _header(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    return {key: json.loads(value) for key, value in metadata.items()}


def _fold_values(checkpoint: bytes | None) -> list[dict[str, float]]:
    return list(_header(checkpoint)["folds"]) if checkpoint else []
