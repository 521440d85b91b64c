"""Section on provenance: versions, command, seeds, data and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from autotune.run.report.section import Section
from autotune.utils.table import Table

if TYPE_CHECKING:
    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """Table with one row per recorded value."""
    rows = [(name, _text(value)) for name, value in provenance(study).items()]
    return Section("provenance", "Provenance", table=Table.of(("what", "value"), rows))


def provenance(study: BareStudy) -> dict[str, Any]:
    """Identity of the search, and the versions and command recorded in its delta file."""
    prepared = study.preparation
    statistics = f"{prepared.bnstats} ({prepared.why})" if prepared else "not settled yet"
    return {
        "run folder": str(study.folder.path),
        **{k: v for k, v in study.identity.items() if v is not None and v is not False and v != {}},
        "normalisation statistics": statistics,
        **_versions(study),
    }


def _versions(study: BareStudy) -> dict[str, Any]:
    """Versions and command from the header of the best delta; empty without an answer."""
    if study.final is None:
        return {}
    try:
        with safe_open(study.folder.best, "np") as stored:
            about = json.loads(stored.metadata()["about"])
        versions = {f"version of {name}": value for name, value in about["versions"].items()}
        return {**versions, "Python": about["python"], "command": about["command"]}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {"delta file": f"could not be read ({error})"}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value)
