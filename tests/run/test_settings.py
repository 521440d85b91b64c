"""Settings are read from YAML and arguments, refused with all that is wrong, and written back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backbones.inputs import InputDescription
from autotune.errors import BudgetError, ConfigError, SpaceError, UnknownName
from autotune.run.settings import (
    Settings,
    load_input,
    load_space,
    read_settings,
    space_names,
    write_settings,
)
from autotune.training.loop import Recipe

SPACE = r"""
family: mine
units: {block: {block: '(layer\d)\.'}, layer: tree}
choices: [{scale: {}}]
hyperparameters: {lr: {head: [0.01], scale: [0.1]}}
"""

words = st.text(st.characters(codec="utf-8"), max_size=8)
some_settings = st.fixed_dictionaries(
    {},
    optional={
        "backbone": words,
        "weights": st.none() | words,
        "budget": st.sampled_from(["1%", "0.5%", "50k", "2000", "300kB"]),
        "timeout": st.none() | st.floats(min_value=1e-3, max_value=1e9),
        "folds": st.sampled_from([0, 2, 5]),
        "pruner": st.sampled_from(["auto", "none", "median"]),
        "seed": st.integers(0, 2**32 - 3),
        "metric": st.sampled_from(["accuracy", "f1"]),
    },
)


def written(folder: Path, text: str, name: str = "config.yaml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_without_anything_given_the_defaults_hold():
    assert read_settings({}) == Settings()
    assert (Settings().budget, Settings().strategy, Settings().trials) == ("1%", "policy", 3)


@pytest.mark.parametrize("strategy", ["tpe", "random"])
def test_other_strategies_take_more_trials_and_any_takes_what_is_asked_for(strategy):
    assert read_settings({"strategy": strategy}).trials == 20
    assert read_settings({"strategy": strategy, "trials": 7}).trials == 7
    assert read_settings({"trials": 7}).trials == 7


@settings(deadline=None, derandomize=True)
@given(some_settings)
def test_written_settings_are_read_back(tmp_path_factory, arguments):
    chosen = read_settings(arguments)
    file = written(tmp_path_factory.getbasetemp(), write_settings(chosen))
    assert read_settings({}, file=file) == chosen


def test_written_settings_name_every_setting_in_the_declared_order():
    data = yaml.safe_load(write_settings(Settings()))
    assert list(data) == list(Settings.model_fields)
    assert data["budget"] == "1%"


def test_what_is_given_overrides_the_file(tmp_path):
    file = written(tmp_path, "trials: 5\nepochs: 3\nbudget: 2000\n")
    merged = read_settings({"trials": 7}, file=file)
    assert (merged.trials, merged.epochs, merged.budget) == (7, 3, "2000")
    assert merged.seed == Settings().seed


def test_a_former_name_is_read_in_a_file_and_in_a_call(tmp_path):
    file = written(tmp_path, "fold: true\n")
    assert read_settings({}, file=file).fuse_batchnorm
    assert read_settings({"fold": True}).fuse_batchnorm
    assert not read_settings({"fuse_batchnorm": False}, file=file).fuse_batchnorm
    assert "\nfold:" not in write_settings(read_settings({}, file=file))


def test_both_names_of_a_setting_are_refused():
    with pytest.raises(ConfigError, match=r"former name of 'fuse_batchnorm'.* Leave 'fold' out"):
        read_settings({"fold": True, "fuse_batchnorm": False})


def test_a_search_and_a_training_alone_have_the_same_default_epochs():
    assert Settings().epochs == Recipe().epochs == 10


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().trials = 3


@pytest.mark.parametrize("given_in_file", [True, False])
def test_an_unknown_setting_is_refused_with_the_nearest_one(tmp_path, given_in_file):
    file = written(tmp_path, "trails: 5\n") if given_in_file else None
    arguments = {} if given_in_file else {"trails": 5}
    with pytest.raises(ConfigError, match=r"no setting named 'trails'\. Did you mean 'trials'\?"):
        read_settings(arguments, file=file)


def test_every_problem_is_listed_in_one_line():
    with pytest.raises(ConfigError, match=r"^Settings must be valid: ") as error:
        read_settings({"trials": 0, "folds": 1, "metric": "luck", "budget": "lots"})
    message = str(error.value)
    assert "\n" not in message
    for part in ("trials: ", "folds: one fold", "metric: ", "got 'luck'", "budget: ", "got 'lots'"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 0),
        ("epochs", 1.5),
        ("workers", -1),
        ("seed", -1),
        ("seed", 2**33),
        ("folds", 1),
        ("timeout", 0),
        ("granularity", "stage"),
        ("bnstats", "maybe"),
        ("augment", "mixup"),
        ("views", -1),
        ("cache_memory", "much"),
        ("cache_disk", "-1GB"),
        ("cache_dtype", "int8"),
        ("precision", "float16"),
        ("layout", "last"),
        ("keep", "none"),
        ("backbone", 7),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name}: .*got {value!r}"):
        read_settings({name: value})


def test_views_are_of_augmented_inputs():
    with pytest.raises(ConfigError, match="views are of augmented inputs; give --augment"):
        read_settings({"views": 3})
    assert read_settings({"views": 3, "augment": "flip"}).views == 3


def test_sizes_of_what_is_kept():
    loaded_settings = read_settings({"cache_memory": 0, "cache_disk": "1.5GB"})
    assert loaded_settings.cache_bytes == (0, 1_500_000_000)


@pytest.mark.parametrize("text", ["0", "-1%", "101%", "lots", ""])
def test_a_wrong_budget_alone_is_a_budget_error(text):
    with pytest.raises(BudgetError, match=f"^A budget .*got {text!r}. Write it as 1%"):
        read_settings({"budget": text})


def test_a_missing_configuration_file_is_named(tmp_path):
    missing = str(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="configuration file must exist") as error:
        read_settings({}, file=missing)
    assert repr(missing) in str(error.value)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"trials: [1", "must be YAML"),
        (b"\xff\xfe\x00", "must be YAML"),
        (b"- trials\n", "must be a mapping of keys"),
        (b"", "must be a mapping of keys"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(tmp_path, content, rule):
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"configuration file {rule}") as error:
        read_settings({}, file=str(file))
    assert repr(str(file)) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_space_is_loaded_by_name():
    assert [load_space(name).family for name in space_names()] == list(space_names())


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_a_space_is_loaded_from_a_file(tmp_path, name):
    assert load_space(written(tmp_path, SPACE, name)).family == "mine"


def test_a_space_in_a_file_that_is_wrong_names_the_file(tmp_path):
    file = written(tmp_path, SPACE + "colour: red\n", "mine.yaml")
    with pytest.raises(SpaceError, match="colour: this key is not known") as error:
        load_space(file)
    assert str(error.value).startswith(file)


def test_a_space_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnknownName, match=r"'resnets'\. Did you mean 'resnet'\?"):
        load_space("resnets")
    with pytest.raises(ConfigError, match="A space file must exist"):
        load_space(str(tmp_path / "nowhere.yaml"))


def test_an_input_description_is_read_from_yaml_or_json(tmp_path):
    expected = InputDescription(size=(28, 28), channels=1, mean=(0.5,), std=(0.25,))
    as_yaml = written(tmp_path, "size: 28\nchannels: 1\nmean: [0.5]\nstd: [0.25]\n")
    as_json = '{"size": [28, 28], "channels": 1, "mean": [0.5], "std": [0.25]}'
    assert load_input(as_yaml) == expected
    assert load_input(written(tmp_path, as_json, "input.json")) == expected
    assert load_input(None) is None


def test_an_input_description_of_arrays_has_a_shape(tmp_path):
    read = load_input(written(tmp_path, "shape: [4, 16]\ndtype: int64\n"))
    assert read == InputDescription(shape=(4, 16), dtype="int64")
    assert read.example_shape == (4, 16)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("size: 8\ncolour: red\n", "unknown keys: colour"),
        ("channels: 3\n", "needs 'size' .* or 'shape'"),
        ("size: 8\nchannels: 1\n", "one mean and std per channel"),
        ("size: 8\ninterpolation: magic\n", "got 'magic'"),
        ("- 8\n", "must be a mapping"),
    ],
)
def test_a_wrong_input_description_is_refused(tmp_path, text, rule):
    with pytest.raises(ConfigError, match=rule):
        load_input(written(tmp_path, text))


@pytest.mark.parametrize("budget", [1, "1", 1.0])
def test_a_budget_of_one_is_refused_and_one_percent_offered(budget):
    with pytest.raises(BudgetError, match="Write 1% for that share of the backbone") as caught:
        read_settings({"budget": budget})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("budget", "text"), [(1000, "1000"), (1e4, "10000.0"), (2, "2")])
def test_a_budget_may_be_a_number_of_parameters(budget, text):
    assert read_settings({"budget": budget}).budget == text
