"""Settings given for a search and their origins; later places override earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import ConfigError, brief
from autotune.run.settings import Settings, current_names, read_mapping, read_value
from autotune.study.strategies import load_strategy

FILE, ASSIGNED, OPTION, CALL, RESUME = "file", "-o", "option", "call", "resume"
"""Origins: a configuration file, `-o KEY=VALUE`, an option, a Python call, a later `resume`."""

OWN = "options."
"""Prefix of the strategy's own options."""


@dataclass(frozen=True)
class GivenSettings:
    """Settings given by the user, with each option of the strategy as `options.NAME`."""

    flat: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    """Setting → origin."""

    @classmethod
    def in_file(cls, file: str | None) -> GivenSettings:
        """Settings in a configuration file; empty without a file."""
        return cls().over(FILE, read_mapping(file, "configuration") if file else {})

    def over(self, origin: str, values: Mapping[str, Any]) -> GivenSettings:
        """Override settings by `values`: `options` replaces all options, `options.NAME` one."""
        new = dict(_flat(current_names(values)))
        kept = [key for key in self.flat if "options" not in values or not key.startswith(OWN)]
        return GivenSettings(
            {**{key: self.flat[key] for key in kept}, **new},
            {**{key: self.origins[key] for key in kept}, **dict.fromkeys(new, origin)},
        )

    @property
    def values(self) -> dict[str, Any]:
        """Settings as `read_settings` takes them, with the options as one mapping."""
        prefixed = {key: value for key, value in self.flat.items() if key.startswith(OWN)}
        rest = {key: value for key, value in self.flat.items() if key not in prefixed}
        options = {key.removeprefix(OWN): value for key, value in prefixed.items()}
        return {**rest, "options": options} if options else rest


def _flat(values: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if key == "options" and isinstance(value, dict):
            yield from ((f"{OWN}{name}", option) for name, option in value.items())
        else:
            yield str(key), value


def read_assigned(texts: Iterable[str]) -> dict[str, Any]:
    """Parse texts `KEY=VALUE` of `-o`, the value as YAML; `ConfigError` for anything else."""
    return dict(_assigned(text) for text in texts)


def _assigned(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"-o takes KEY=VALUE, got {brief(repr(text))}. Example: -o epochs=3.")
    return key, read_value(value, f"-o {text}")


def tell_origins(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    """Setting → origin of its value, also for settings that were not given."""
    origins = current_names(origins)
    return {name: _origin(settings, name, origins) for name in Settings.model_fields}


def _origin(settings: Settings, name: str, origins: Mapping[str, str]) -> str:
    places = [place for key, place in origins.items() if key == name or key.startswith(f"{name}.")]
    value = getattr(settings, name)
    if places:
        return ", ".join(dict.fromkeys(places))
    if name == "trials" and value == load_strategy(settings.strategy).default_trials:
        return "strategy default"
    return "default" if value == Settings.model_fields[name].default else "the run"


def changed_settings(before: Settings, after: Settings) -> list[str]:
    """Names of the settings whose values differ."""
    return [n for n in Settings.model_fields if getattr(before, n) != getattr(after, n)]
