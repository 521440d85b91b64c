"""The page of all commands, from the commands themselves."""

from __future__ import annotations

from typing import Any

import typer

from autotune.cli.app import app

HEAD = """# Command line

Written from the commands themselves. Each takes `--help`; `--debug` shows the traceback
of an error. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""


def command_line() -> str:
    """Markdown: of each command its text, its usage and its options by panel."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(_command(name, group.commands[name]) for name in group.commands)])


def _command(name: str, command: Any) -> str:
    text, _, example = (command.help or "").partition("Example: ")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    used = [_metavar(p) for p in arguments]
    lines = [f"## autotune {name}", "", text.strip(), "", "```text"]
    lines += [" ".join(["autotune", name, *used, "[OPTIONS]"]), "```", ""]
    if example:
        lines += ["For example:", "", "```text", " ".join(example.split()), "```", ""]
    if arguments:
        lines += _table("argument", [(_metavar(p), p) for p in arguments])
    panels = dict.fromkeys(getattr(p, "rich_help_panel", None) or "" for p in options)
    for panel in panels:
        in_panel = [p for p in options if (getattr(p, "rich_help_panel", None) or "") == panel]
        lines += [f"**{panel}**", ""] if panel else []
        lines += _table("option", [(_option(p), p) for p in in_panel])
    return "\n".join(lines)


def _table(title: str, rows: list[tuple[str, Any]]) -> list[str]:
    cells = [f"| `{shown}` | {_cell(p.help or '')}{_default(p)} |" for shown, p in rows]
    return [f"| {title} | |", "| --- | --- |", *cells, ""]


def _option(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {_metavar(option)}"


def _metavar(parameter: Any) -> str:
    return parameter.metavar or str(parameter.name).upper().replace("_", "-")


def _default(parameter: Any) -> str:
    default = parameter.default
    is_option = parameter.param_type_name == "option"
    if default is None or default is False or callable(default) or not is_option:
        return ""
    return f" Default: `{default}`." if str(default) else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(command_line())
