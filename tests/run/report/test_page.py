"""The page in a real browser: everything is drawn, readable, reachable, and asks for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotune.run.report import SECTIONS

pytestmark = pytest.mark.browser

DRAWN = ("network", "front", "policy", "history", "cost")
"""Sections of a search by policy that have a figure."""

MARKS = ".barlayer .point path, .scatterlayer .point, .scatterlayer .js-line, .heatmaplayer image"


def marks(page, name):
    """Width and height in pixels of all that is drawn for data in a section's figure."""
    selectors = (f"#{name}-picture {part}" for part in MARKS.split(", "))
    shown = [mark for selector in selectors for mark in page.query_selector_all(selector)]
    boxes = [box for mark in shown if (box := mark.bounding_box())]
    return [(box["width"], box["height"]) for box in boxes]


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_every_figure_is_drawn_and_nothing_complains(opened, page_file, width, scheme, tmp_path):
    shown = opened(page_file, width=width, scheme=scheme)
    for name in DRAWN:
        seen = marks(shown.page, name)
        assert any(max(size) >= 4 for size in seen), f"nothing is drawn in {name}: {seen}"
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
    folder = Path(os.environ.get("AUTOTUNE_SCREENSHOTS", tmp_path))
    figure = folder / f"report-{width}-{scheme}.png"
    shown.page.screenshot(path=figure, full_page=True)
    assert figure.stat().st_size > 20_000


def test_a_bar_is_as_long_as_its_unit_costs(opened, page_file):
    page = opened(page_file).page
    points = page.evaluate("document.getElementById('network-picture').data.map(t => [t.x, t.y])")
    costs = sorted(cost for costs, _ in points for cost in costs if cost)
    widths = sorted(width for width, _ in marks(page, "network"))[-len(costs) :]
    assert widths[-1] / widths[0] == pytest.approx(costs[-1] / costs[0], rel=0.1)


def test_a_dark_page_has_light_text_in_its_figures_too(opened, page_file):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened(page_file, scheme=scheme).page
        colours[scheme] = page.evaluate(
            "getComputedStyle(document.querySelector('#network-picture .ytick text')).fill"
        )
    assert colours["light"] != colours["dark"]


def test_a_phone_needs_no_sideways_scrolling(opened, page_file):
    page = opened(page_file, width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_keyboard_reaches_everything_that_can_be_used(opened, page_file):
    page = opened(page_file).page
    usable = "a[href], button, summary, .wide, code[tabindex]"
    wanted = page.evaluate(f"document.querySelectorAll('{usable}').length")
    hidden = page.evaluate("document.querySelectorAll('details:not([open]) .wide').length")
    page.keyboard.press("Tab")
    reached = set()
    for _ in range(wanted + 5):
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
        page.keyboard.press("Tab")
    assert len(reached) >= wanted - hidden


def test_a_table_behind_a_figure_opens_with_the_keyboard(opened, page_file):
    page = opened(page_file).page
    page.focus("#network summary")
    page.keyboard.press("Enter")
    assert page.is_visible("#network table")
    assert page.inner_text("#network tbody tr:first-child td:first-child") == "stem"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(opened, page_file, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(page_file, scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    shown = axe.run(page).response["violations"]
    serious = [v for v in shown if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in serious]


def test_every_figure_has_an_alternative_and_its_numbers(opened, page_file):
    page = opened(page_file).page
    for name in DRAWN:
        assert len(page.get_attribute(f"#{name}-picture", "aria-label") or "") > 20
        assert page.query_selector(f"#{name} details table tbody tr") is not None


def test_the_page_is_small_and_has_all_sections_in_order(page_file):
    text = page_file.read_text()
    assert len(text) < 6_000_000
    at = [text.find(f'<section id="{name}"') for name in SECTIONS.names()]
    assert -1 not in at and at == sorted(at)
