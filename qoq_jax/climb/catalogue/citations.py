"""BibTeX entries of citations.bib by their key, as they are written there."""

from __future__ import annotations

import functools
import importlib.resources
import re
import types
from collections.abc import Mapping

from qoq_jax.base.errors import DataError

_FILE = importlib.resources.files("qoq_jax.climb.catalogue") / "citations.bib"
_HEAD = re.compile(r"@(\w+)\s*\{\s*([\w:-]+)\s*,")
_FIELD = re.compile(r"(\w+)\s*=\s*\{")


@functools.cache
def load() -> Mapping[str, str]:
    """All entries by key."""
    return types.MappingProxyType(split(_FILE.read_text(encoding="utf-8"), _FILE.name))


def split(text: str, where: str) -> dict[str, str]:
    """Entries of a BibTeX file by key; a key that occurs twice or braces that stay open are a
    DataError.
    """
    found: dict[str, str] = {}
    for head in _HEAD.finditer(text):
        key, end = head[2], _close(text, text.index("{", head.start()), f"{where}: {head[2]}")
        if key in found:
            raise DataError("the key is there twice", where=f"{where}: {key}")
        found[key] = text[head.start() : end + 1]
    return found


def fields(entry: str) -> dict[str, str]:
    """The fields of one entry, without the outer braces of their values."""
    found, position = {}, entry.index(",")
    while match := _FIELD.search(entry, position):
        position = _close(entry, match.end() - 1, match[1])
        found[match[1].lower()] = entry[match.end() : position]
    return found


def _close(text: str, start: int, where: str) -> int:
    """Where the brace that opens at `start` closes."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return position
    raise DataError("a brace stays open", where=where)
