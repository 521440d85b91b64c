"""Texts from files, such as names of classes, as a terminal may show them."""

from __future__ import annotations

import unicodedata

KEPT = "\n\t"

TURNS = frozenset("LRE RLE LRO RLO PDF LRI RLI FSI PDI".split())
"""Bidirectional classes of characters that change the direction of the text after them."""


def harmless(text: str) -> str:
    """The text with control characters written out, which could move the cursor or hide text.

    So are marks that reverse the direction of text, and halves of characters.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_written, text))


def _written(character: str) -> str:
    is_control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    turns = unicodedata.bidirectional(character) in TURNS
    if not (is_control or turns) or character in KEPT:
        return character
    return character.encode("unicode_escape").decode()
