"""Options made from settings: what a command gets from them."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from autotune.cli.options import SettingOptions, SettingValues, all_settings, with_settings
from autotune.errors import ConfigError


@pytest.fixture
def used():
    """Setting values that a command with the options of all settings gets."""

    def run(*arguments: str) -> SettingValues:
        app, received = typer.Typer(), []

        @app.command()
        @with_settings
        def command(
            *,
            first: Annotated[SettingValues, all_settings()],
            quiet: Annotated[bool, typer.Option("--quiet")] = False,
        ) -> None:
            received.append((first, quiet))

        done = CliRunner().invoke(app, [*arguments, "--quiet"])
        if done.exception is not None:
            raise done.exception
        ((values, quiet),) = received
        assert quiet
        return values

    return run


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {}),
        ("--epochs 3 --timeout 1.5", {"epochs": 3, "timeout": 1.5}),
        ("--keep-head --budget 2%", {"keep_head": True, "budget": "2%"}),
        ("--no-references", {"references": False}),
        ("--option a=1 --option b=x=y", {"options.a": "1", "options.b": "x=y"}),
        ("--fuse-batchnorm", {"fuse_batchnorm": True}),
        ("--fold", {"fold": True}),
    ],
)
def test_a_command_gets_the_options_that_are_used(used, arguments, values):
    assert used(*arguments.split()) == values


def test_an_option_of_the_strategy_needs_a_value(used):
    with pytest.raises(ConfigError, match="--option takes NAME=VALUE, got 'a'"):
        used("--option", "a")


def test_options_stand_where_their_parameter_stands():
    @with_settings
    def command(
        *,
        before: int = 0,
        some: Annotated[SettingValues, SettingOptions(("seed", "fuse_batchnorm"))],
        after: int = 0,
    ) -> None: ...

    names = list(typer.utils.get_params_from_function(command))
    assert names == ["before", "seed", "fuse_batchnorm", "fold", "after"]


def test_a_former_name_is_hidden():
    app = typer.Typer()

    @app.command()
    @with_settings
    def command(values: Annotated[Any, SettingOptions(("fuse_batchnorm",))]) -> None: ...

    text = CliRunner().invoke(app, ["--help"]).output
    assert "--fuse-batchnorm" in text
    assert "--fold" not in text
