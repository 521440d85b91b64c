"""What is given for a search, and where: each place over the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import ConfigError
from autotune.run.settings import Settings, current_names, read_mapping, read_value
from autotune.study.strategies import load_strategy

FILE, ASSIGNED, OPTION, CALL, RESUME = "file", "-o", "option", "call", "resume"
"""The places: a configuration, `-o KEY=VALUE`, an option, from Python, a later `resume`."""

OWN = "options."
"""Before the name of an option of the strategy's own."""


@dataclass(frozen=True)
class GivenSettings:
    """Settings that are given; those of the strategy one by one, as `options.NAME`."""

    flat: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each was given."""

    @classmethod
    def in_file(cls, file: str | None) -> GivenSettings:
        """What a configuration gives, nothing without one."""
        return cls().over(FILE, read_mapping(file, "configuration") if file else {})

    def over(self, origin: str, values: Mapping[str, Any]) -> GivenSettings:
        """These values over those before; `options` replaces all, `options.NAME` one."""
        new = dict(_flat(current_names(values)))
        kept = [key for key in self.flat if "options" not in values or not key.startswith(OWN)]
        return GivenSettings(
            {**{key: self.flat[key] for key in kept}, **new},
            {**{key: self.origins[key] for key in kept}, **dict.fromkeys(new, origin)},
        )

    @property
    def values(self) -> dict[str, Any]:
        """What `read_settings` reads."""
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
    """What `-o KEY=VALUE` gives, its value as in YAML; `ConfigError` for anything else."""
    return dict(_assigned(text) for text in texts)


def _assigned(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"-o takes KEY=VALUE, got {text!r}. As in: -o epochs=3.")
    return key, read_value(value, f"-o {text}")


def tell_origins(settings: Settings, origins: Mapping[str, str]) -> dict[str, str]:
    """Setting → where its value comes from, also of those that nobody gave."""
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
    """Names of the settings that are not what they were."""
    return [n for n in Settings.model_fields if getattr(before, n) != getattr(after, n)]
