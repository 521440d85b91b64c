"""State dicts in checkpoints of other programs: where they lie, and prefixes of their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

ENTRIES = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema")
"""Entries of a checkpoint under which training programs store a state dict, by preference."""

PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.")
"""Prefixes that `torch.compile`, data-parallel training and wrappers put before every name."""

DEEPEST = 3
"""Largest number of entries or of prefixes in each other."""

State = Mapping[str, Tensor]


def state_dicts(content: object, depth: int = DEEPEST) -> dict[str, State]:
    """Entry → state dict, for every one in a checkpoint; the entry of a plain one is empty."""
    if not isinstance(content, Mapping):
        return {}
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {"": {str(name): tensor for name, tensor in content.items()}}
    states: dict[str, State] = {}
    for entry in ENTRIES if depth else ():
        inner = state_dicts(content.get(entry), depth - 1)
        states |= {".".join(filter(None, (entry, below))): state for below, state in inner.items()}
    return states


def without_prefixes(state: State) -> Iterator[State]:
    """The state dict as it is, then with fewer and fewer prefixes, in the same order of tensors."""
    waiting = [state]
    for _ in range(DEEPEST):
        yield from waiting
        pairs = [(prefix, longer) for longer in waiting for prefix in PREFIXES]
        waiting = [s for prefix, longer in pairs if (s := _without(prefix, longer)) is not None]
    yield from waiting


def _without(prefix: str, state: State) -> State | None:
    """The state dict with a prefix removed where it is; None if it is nowhere, or names clash."""
    names = {name: _shortened(name, prefix) for name in state}
    if len(set(names.values())) < len(names) or all(name == new for name, new in names.items()):
        return None
    return {names[name]: tensor for name, tensor in state.items()}


def _shortened(name: str, prefix: str) -> str:
    if prefix == "_orig_mod.":  # inside a name where only a part of the network was compiled
        return name.replace(prefix, "")
    return name.removeprefix(prefix)
