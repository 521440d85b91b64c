"""A report as one self-contained HTML file, which loads nothing from the network."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment

from autotune.run.report.section import Report


def to_html(report: Report) -> str:
    """HTML page with escaped text; its figures are data that the embedded Plotly.js draws."""
    from plotly.offline import get_plotlyjs

    folder = files("autotune.run.report")
    read = {kind: (folder / f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "jinja")}
    figures = {s.name: s.draw() for s in report.sections if s.draw is not None}
    page = Environment(autoescape=True).from_string(read["jinja"])
    return page.render(
        report=report,
        figures=figures,
        data={name: _script_safe(figure.to_json()) for name, figure in figures.items()},
        css=read["css"],
        js=read["js"],
        plotly=get_plotlyjs() if figures else "",
    )


def _script_safe(text: str) -> str:
    """Escape `<` in JSON, so that it cannot close the `<script>` element around it."""
    return text.replace("<", "\\u003c")
