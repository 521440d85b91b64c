"""A job whose frozen part is kept gives the bits of one that computes it in every step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from autotune.backbones.base import Backbone, describe
from autotune.backbones.inputs import InputDescription
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search, released
from autotune.training.engine import Engine
from autotune.training.prefix.prefix import Keeping

RATES = dict.fromkeys(("lr:head", "lr:lowrank", "lr:side", "lr:bypass", "lr:skip"), 0.01)
RATES |= {"lr:subtune": 1e-3, "weight_decay": 0.01}
LOWRANK, ALL = Choice.of("lowrank", rank=2), Choice.of("subtune", what="all")
NONE, MEMORY = Keeping(), Keeping(memory=10**9)


def torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, **options)


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = {"num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 5}
    return VisionTransformer(image_size=32, patch_size=8, **sizes)


def digits() -> nn.Module:
    from autotune.backbones import load_backbone

    return load_backbone("builtin:digits").network


def resnet20() -> nn.Module:
    from autotune.backbones import load_backbone

    file = Path(__file__).parents[3] / "examples" / "cifar_resnet.py"
    return load_backbone(f"python:{file}:resnet20").network


class Checked(nn.Module):
    """Looks at what it is given, which only `torch.export` can follow."""

    def __init__(self) -> None:
        super().__init__()
        made = resnet20()
        self.stem = nn.Sequential(made.conv1, made.bn1)
        self.body = nn.Sequential(made.layer1, made.layer2, made.layer3)
        self.head = made.linear

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("images have three channels")
        y: Tensor = self.body(self.stem(x).relu()).mean((2, 3))
        return self.head(y)  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Any, str, tuple[int, int, int]]] = {
    "digits": (digits, "resnet", (1, 8, 8)),
    "resnet20": (resnet20, "resnet", (3, 32, 32)),
    "mobilenet_v2": (lambda: torchvision("mobilenet_v2"), "mobilenet", (3, 32, 32)),
    "checked": (Checked, "any", (3, 32, 32)),
    "vit": (small_vit, "vit", (3, 32, 32)),
}


def backbone(name: str) -> Backbone:
    make, family, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    with torch.no_grad():
        network.train()(torch.randn(32, *shape))  # statistics of some images
    described = InputDescription(
        size=shape[1:], channels=shape[0], mean=(0.0,) * shape[0], std=(1.0,) * shape[0]
    )
    return describe(network.eval(), source=name, family=family, input=described)


def task(shape: tuple[int, ...]) -> dict[str, Any]:
    """Three classes of 60 images: 38 to train, which no batch size divides."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    noise = torch.randn(60, *shape, generator=generator)
    return {"x": (noise + labels.view(-1, 1, 1, 1)).numpy(), "y": labels.numpy()}


@contextmanager
def engine(name: str, keeping: Keeping, **settings: Any) -> Iterator[Engine]:
    tested = backbone(name)
    read = read_settings({"epochs": 2, "batch_size": 16, "space": tested.family, **settings})
    small_task = task(NETWORKS[name][2])
    with released(prepare_search(read, tested, (small_task["x"], small_task["y"]))) as setup:
        setup.engine.keeping = keeping
        setup.engine.to("cpu")
        yield setup.engine


def run(engine: Engine, plan: Plan, **job: Any) -> list[Progress]:
    return list(engine(Job("trial 0", plan, RATES, seed=3, **job)))


def told(progresses: list[Progress]) -> list[Any]:
    """All that a study would record, and the bits of the delta."""
    files = [load(p.artifact) if p.artifact else {} for p in progresses]
    bits = [{name: tensor.numpy().tobytes() for name, tensor in f.items()} for f in files]
    return [(p.value, p.metrics, of) for p, of in zip(progresses, bits, strict=True)]


def plans(engine: Engine) -> dict[str, Plan]:
    """Plans for units at the beginning, the middle and the end, and for paths around them."""
    units = [unit.name for unit in engine.units if not unit.levels]
    first, middle, last = units[0], units[len(units) // 2], units[-1]
    choices = {"first": {first: ALL}, "middle": {middle: LOWRANK}, "last": {last: ALL}, "head": {}}
    spans = [unit.name for unit in engine.units if unit.levels]
    if "layer3" in spans:
        choices["side"] = {"layer3": Choice.of("side", width=4)}
        choices["skip"] = {"layer2": Choice.of("skip", width=4)}
    if "network" in spans:
        choices["bypass"] = {"network": Choice.of("bypass", width=4)}
    return {name: Plan(chosen) for name, chosen in choices.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "mobilenet_v2", "checked", "vit"])
def test_what_is_kept_changes_no_bit(name, tmp_path):
    """In memory, in files, and in files that another process made."""
    shelf = Keeping(disk=10**9, folder=tmp_path)
    with engine(name, NONE) as plain:
        expected = {key: told(run(plain, plan)) for key, plan in plans(plain).items()}
    for keeping, keys in ((MEMORY, expected), (shelf, ("middle", "head")), (shelf, ("middle",))):
        with engine(name, keeping) as kept:
            for key in keys:
                assert told(run(kept, plans(kept)[key])) == expected[key], key
    assert list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", [pytest.param("resnet20", marks=pytest.mark.slow), "vit"])
def test_with_other_batch_sizes_it_changes_next_to_nothing(name):
    with engine(name, NONE, batch_size=7) as plain, engine(name, MEMORY, batch_size=7) as kept:
        plan = plans(plain)["middle"]
        *_, one = run(plain, plan)
        *_, other = run(kept, plan)
    assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-4)


def test_a_network_that_looks_at_its_input_is_cut_by_operators():
    with engine("checked", MEMORY) as kept:
        *_, last = [u.name for u in kept.units if not u.levels]
        run(kept, Plan({last: ALL}))
        assert [keeper.graph.is_exported for keeper in kept.prefix._keepers] == [True]
        assert len(kept.prefix._keepers[0].places[0]._kept) == 2  # of training and of validation


def test_a_resumed_job_reads_what_is_kept():
    with engine("resnet20", NONE) as plain:
        plan = plans(plain)["middle"]
        whole = run(plain, plan)
    with engine("resnet20", MEMORY) as kept:
        assert told(run(kept, plan, checkpoint=whole[0].checkpoint))[-1:] == told(whole)[-1:]


def test_deeper_values_are_computed_from_shallower_ones():
    with engine("resnet20", MEMORY) as kept:
        counted = count(kept.backbone.network.conv1)
        run(kept, Plan({"layer2.0": LOWRANK}))
        seen = counted[0]
        for unit in ("layer2.1", "layer3.2"):
            run(kept, Plan({unit: LOWRANK}))
        assert counted[0] == seen > 0


@pytest.mark.slow
def test_values_of_another_preparation_are_not_taken(tmp_path):
    plan = Plan({"layer3.2": LOWRANK})
    results = []
    with engine("resnet20", Keeping(disk=10**9, folder=tmp_path)) as kept:
        for _ in range(2):
            results.append(told(run(kept, plan)))
            kept.prepare({} if kept.prepared else kept.statistics())
        assert told(run(kept, plan)) == results[0] != results[1]


@pytest.mark.slow
def test_values_of_other_weights_under_their_name_are_found_out(tmp_path, monkeypatch):
    """As when a network's code changes, which no name tells: one batch is computed and compared."""
    monkeypatch.setattr(
        "autotune.training.prefix.prefix.CachedPrefix._circumstances", lambda *_: []
    )
    keeping = Keeping(disk=10**9, folder=tmp_path)
    plan = Plan({"layer3.2": LOWRANK})
    with engine("resnet20", keeping) as kept:
        first = told(run(kept, plan))
    with engine("resnet20", keeping) as kept:
        kept.backbone.network.layer1[0].conv1.weight.data.mul_(1.5)
        changed = told(run(kept, plan))
    with engine("resnet20", NONE) as plain:
        plain.backbone.network.layer1[0].conv1.weight.data.mul_(1.5)
        assert told(run(plain, plan)) == changed != first


def test_a_damaged_file_is_computed_again(tmp_path):
    keeping, plan = Keeping(disk=10**9, folder=tmp_path), Plan({"layer3.2": LOWRANK})
    with engine("resnet20", keeping) as kept:
        expected = told(run(kept, plan))
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    with engine("resnet20", keeping) as kept:
        assert told(run(kept, plan)) == expected


@pytest.mark.slow
def test_with_little_room_an_earlier_and_smaller_cut_is_kept():
    """Behind the second stage the first one's values would take twice the room."""
    plan = Plan({"layer3.2": LOWRANK})
    with engine("resnet20", NONE) as plain:
        expected = told(run(plain, plan))
    for room in (10**5, 10**6, 3 * 10**6):
        with engine("resnet20", Keeping(memory=room)) as kept:
            assert told(run(kept, plan)) == expected
            place = kept.prefix._keepers[0].places[0]
            assert place.nbytes <= room


def test_what_does_not_fit_into_memory_goes_to_files(tmp_path):
    plan = Plan({"layer3.2": LOWRANK})
    with engine("resnet20", NONE) as plain:
        expected = told(run(plain, plan))
    room = 700_000  # training takes 38 · 16 kB, validation 10 · 16 kB more
    with engine("resnet20", Keeping(memory=room, disk=10**9, folder=tmp_path)) as kept:
        assert told(run(kept, plan)) == expected
        memory, shelf = kept.prefix._keepers[0].places
        assert 0 < memory.nbytes <= room
        assert shelf.nbytes > 0


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path, small_disk, caplog):
    plan = Plan({"layer3.2": LOWRANK})
    with engine("resnet20", NONE) as plain:
        expected = told(run(plain, plan))
    (small_disk / "filling").write_bytes(bytes(3 * 2**20 - 200_000))
    with engine("resnet20", Keeping(disk=10**9, folder=small_disk / "trunk")) as kept:
        assert told(run(kept, plan)) == expected
    assert "can no longer be cached in files (the disk is full)" in caplog.text


@pytest.mark.parametrize("augment", [pytest.param("flip", marks=pytest.mark.slow), "crop+flip"])
def test_views_that_are_kept_are_those_that_are_drawn(augment):
    plan = Plan({"layer3.2": LOWRANK})
    settings = {"augment": augment, "views": 2, "epochs": 4}
    with engine("resnet20", Keeping(views=2), **settings) as plain:
        expected = told(run(plain, plan))
    with engine("resnet20", Keeping(memory=10**9, views=2), **settings) as kept:
        assert told(run(kept, plan)) == expected
        seen = count(kept.backbone.network.conv1)
        run(kept, plan)
        assert seen == [0]


@pytest.mark.slow
def test_without_views_augmented_inputs_are_never_kept():
    plan, settings = Plan({"layer3.2": LOWRANK}), {"augment": "crop+flip"}
    with engine("resnet20", NONE, **settings) as plain:
        expected = told(run(plain, plan))
    with engine("resnet20", MEMORY, **settings) as kept:
        run(kept, plan)
        seen = count(kept.backbone.network.conv1)
        assert told(run(kept, plan)) == expected
        assert seen[0] == 2 * 48  # two epochs of training images, and none of validation


def test_bfloat16_takes_half_and_rounds():
    plan = Plan({"layer3.2": LOWRANK})
    sizes, losses = [], []
    for dtype in ("float32", "bfloat16"):
        with engine("resnet20", Keeping(memory=10**9, dtype=dtype)) as kept:
            *_, last = run(kept, plan)
            place = kept.prefix._keepers[0].places[0]
            sizes.append(place.nbytes)
            losses.append(last.metrics["loss"])
    assert sizes[0] == 2 * sizes[1]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_network_that_cannot_be_traced_runs_as_a_whole_and_says_so(caplog):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x if float(x.sum()) > -1e9 else -x)
            return self.head(y.mean((2, 3)))

    with caplog.at_level("INFO"):
        images = InputDescription(size=(32, 32))
        network = describe(Branching(), source="b", family="any", input=images)
        small_task = task((3, 32, 32))
        read = read_settings({"epochs": 1, "batch_size": 16})
        with released(prepare_search(read, network, (small_task["x"], small_task["y"]))) as setup:
            assert run(setup.engine, Plan({"conv": LOWRANK}))
    assert "The network runs as a whole without a cache" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"fuse_batchnorm": True}, {"layout": "channels_last"}, {"precision": "bfloat16"}],
    ids=str,
)
def test_faster_ways_change_next_to_nothing(settings):
    """And what is kept changes no bit of them."""
    losses = []
    for keeping, chosen in ((MEMORY, {}), (MEMORY, settings), (NONE, settings)):
        with engine("resnet20", keeping, **chosen) as kept:
            *_, last = run(kept, Plan({"layer2.0": LOWRANK}))
            losses.append(last.metrics["loss"])
    assert losses[1] == losses[2]
    rounding = 0.02 if "precision" in settings else 1e-4
    assert losses[1] == pytest.approx(losses[0], rel=rounding)


def count(layer: nn.Module) -> list[int]:
    """Number of images a layer sees from now on, counted in `forward`, which a graph calls."""
    seen, forward = [0], layer.forward

    def counted(x: Tensor) -> Tensor:
        seen[0] += len(x)
        return forward(x)

    layer.forward = counted  # type: ignore[method-assign]
    return seen
