"""Searches to be told of, and a real browser to look at the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import autotune

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def searched(made_once: Callable[..., Path]) -> Path:
    """The folder of a search by policy that ran to its end; tests must not write into it."""
    how = {"trials": 3, "epochs": 1, "device": "cpu"}
    return made_once("searched/digits", lambda folder: autotune.search(**how, out=str(folder)))


@dataclass
class Opened:
    """A page in the browser, and what it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a screen."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no Chromium is installed (Debian's package chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens files from the file system, as wide as asked for, light or dark."""
    pages = []

    def open_file(file: Path, *, width: int = 1100, scheme: str = "light") -> Opened:
        page = chromium.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        window = Opened(page)
        page.on("console", lambda entry: window.complaints.append(f"{entry.type}: {entry.text}"))
        page.on("pageerror", lambda error: window.complaints.append(str(error)))
        page.on("request", lambda request: window.requests.append(request.url))
        page.goto(file.resolve().as_uri())
        page.wait_for_load_state("load")
        pages.append(page)
        return window

    yield open_file
    for page in pages:
        page.close()


@pytest.fixture(scope="session")
def page_file(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of `searched`."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(autotune.Study(searched).report())
    return file
