"""YAML as data, with limits: files may come from others."""

from __future__ import annotations

from typing import Any

import yaml

MAX_CHARACTERS = 200_000
"""Longest text that is parsed. A search space has ten thousand; this many take seconds."""

MAX_VALUES = 100_000
"""Most values after aliases are expanded. A few nested ones stand for more than memory holds."""

MAX_DEPTH = 50
"""Deepest nesting. The deepest file of autotune has a depth of five."""


class _Loader(yaml.SafeLoader):
    """`SafeLoader` that leaves dates as text: no setting is one."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Value of a YAML text; raises `ValueError` with the reason if it has none or is too large."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    try:
        return _constructed(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _constructed(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, ())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[int, int], above: tuple[int, ...]) -> int:
    """Values below a node and itself, where each alias counts like what it stands for."""
    if id(node) in above:
        raise ValueError("it contains itself")
    if len(above) > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if id(node) not in counts:
        inner = (*above, id(node))
        counts[id(node)] = 1 + sum(_count(part, counts, inner) for part in _parts(node))
    if counts[id(node)] > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES:,} values")
    return counts[id(node)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def to_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back, with mappings in their order."""
    text: str = yaml.safe_dump(value, sort_keys=False)
    return text


def to_yaml_line(value: Any, *, flow: bool) -> str:
    """YAML text on one line; with `flow`, in braces."""
    text: str = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, width=10**6)
    return text
