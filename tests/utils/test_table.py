"""A table is one set of values in several forms."""

from __future__ import annotations

import json

from autotune.utils.table import Column, Spread, Table


def test_a_spread_is_shown_with_its_deviation_and_is_its_mean_in_json():
    rows = [("norms only", Spread(0.694, 0.098)), ("probe", 0.5)]
    table = Table.of(("method", Column("validation", ".1%")), rows)
    assert [texts[1] for texts in table.texts()] == ["69.4% ± 9.8%", "50.0%"]
    assert json.loads(json.dumps(table.to_json()))[0] == {
        "method": "norms only",
        "validation": 0.694,
    }
    assert "69.4% ± 9.8%" in table.to_markdown() and "69.4% ± 9.8%" in table.to_html()
