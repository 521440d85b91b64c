"""Command options, generated from the descriptions of settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, get_args

import typer

from autotune.cli.completion import Completion, among, runs, spaces
from autotune.errors import ConfigError
from autotune.run.setting_description import SettingDescription
from autotune.run.settings import FORMER_NAMES, descriptions

Command = Callable[..., None]
SettingValues = dict[str, Any]
"""Setting, or `options.NAME` for one strategy option → value given on the command line."""

LOOKED_UP: dict[str, Completion] = {"space": spaces, "profile": runs, "supernet": runs}
"""Setting → completion, for settings whose values are not listed in their description."""

TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "object": list[str],
}
"""JSON type of a setting → type of its option; a mapping is given as repeated NAME=VALUE."""


@dataclass(frozen=True)
class SettingOptions:
    """Annotation of a parameter that `with_settings` replaces by the options of these settings."""

    names: tuple[str, ...]
    has_panels: bool = True
    """Whether help shows the options in the panels of their settings."""

    def parameters(self) -> Iterator[Parameter]:
        """Parameters of the options; options with a former name are hidden."""
        for name in self.names:
            yield _parameter(name, setting_option(name, has_panel=self.has_panels))
        for name in self._former_names():
            yield _parameter(name, _former_option(name))

    def values(self, arguments: Mapping[str, Any]) -> SettingValues:
        """Values of the settings whose options were given."""
        names = (*self.names, *self._former_names())
        used = [name for name in names if arguments[name] is not None]
        return dict(entry for name in used for entry in _entries(name, arguments[name]))

    def _former_names(self) -> list[str]:
        return [former for former, name in FORMER_NAMES.items() if name in self.names]


def with_settings(command: Command) -> Command:
    """Replace each parameter annotated with `SettingOptions` by the options of its settings.

    The command receives the options that were given as one `SettingValues`.
    """
    declared = signature(command, eval_str=True)
    groups = {name: group for name, p in declared.parameters.items() if (group := _group(p))}

    @wraps(command)
    def run(**arguments: Any) -> None:
        values = {name: group.values(arguments) for name, group in groups.items()}
        rest = {name: arguments[name] for name in declared.parameters if name not in groups}
        command(**rest, **values)

    parameters = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for name, original in declared.parameters.items()
        for parameter in (groups[name].parameters() if name in groups else (original,))
    ]
    run.__signature__ = declared.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def all_settings() -> SettingOptions:
    """Annotation for the options of all settings."""
    return SettingOptions(tuple(descriptions()))


def movable_settings() -> SettingOptions:
    """Annotation for the settings that a resumed search may change to run elsewhere."""
    return SettingOptions(tuple(d.name for d in descriptions().values() if d.is_movable))


def setting_option(name: str, *, has_panel: bool = False) -> Any:
    """Return the option of one setting, for the annotation of a parameter."""
    setting = _described(name)
    return typer.Option(
        _flag(setting),
        help=_help(setting),
        metavar=setting.metavar,
        rich_help_panel=setting.panel.value if has_panel else None,
        autocompletion=_completion(setting),
    )


def _group(parameter: Parameter) -> SettingOptions | None:
    metadata = get_args(parameter.annotation)[1:]
    return next((m for m in metadata if isinstance(m, SettingOptions)), None)


def _described(name: str) -> SettingDescription:
    return descriptions()[FORMER_NAMES.get(name, name)]


def _parameter(name: str, option: Any) -> Parameter:
    value = TYPES[_described(name).kind] | None
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value, option]
    )


def _former_option(name: str) -> Any:
    text = f"Former name of {_flag(_described(name))}."
    return typer.Option(f"--{name.replace('_', '-')}", help=text, metavar="", hidden=True)


def _flag(setting: SettingDescription) -> str:
    """Name of the option: `--no-NAME` if the default is on, singular for a mapping."""
    if setting.default is True:
        return f"--no-{setting.name.replace('_', '-')}"
    name = setting.name.removesuffix("s") if setting.kind == "object" else setting.name
    return f"--{name.replace('_', '-')}"


def _help(setting: SettingDescription) -> str:
    if setting.default is True:
        return f"Do not {setting.text[0].lower()}{setting.text[1:]}"
    return f"{setting.text} May be repeated." if setting.kind == "object" else setting.text


def _completion(setting: SettingDescription) -> Completion | None:
    if setting.name in LOOKED_UP:
        return LOOKED_UP[setting.name]
    return among(" ".join(setting.values)) if setting.values else None


def _entries(name: str, argument: Any) -> Iterator[tuple[str, Any]]:
    setting = _described(name)
    if setting.kind == "object":
        yield from (_entry(setting, text) for text in argument)
    else:
        yield name, not argument if setting.default is True else argument


def _entry(setting: SettingDescription, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            f"{_flag(setting)} takes NAME=VALUE, got {text!r}. Example: direction=backward."
        )
    return f"{setting.name}.{name}", value
