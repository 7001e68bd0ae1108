"""Label lists in text: "A, B and C" -> (A, B, C)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATOR = re.compile(r"\s*(?:[,;&\n]|\band\b)\s*", re.IGNORECASE)
_MAX_LABEL_TEXT = 4096


def split_labels(text: str, vocabulary: Sequence[str] = ()) -> tuple[str, ...]:
    """Splits "A, B and C" into labels, each once, in order.

    Names of the vocabulary are matched first and longest first, so a label may itself hold a comma,
    a period, a slash or "and" ("A. Fib/Aflutter", "Lobular and ductal"). What matches no name is
    split at comma, semicolon, "&", line ends and "and", and kept as it is written.

    Args:
      text: label text; only the first 4096 characters are read.
      vocabulary: allowed names; matching ignores case and repeated spaces, results are spelled as
        here.
    """
    text = " ".join(text[:_MAX_LABEL_TEXT].replace("\n", " , ").split())
    names = sorted(
        ((" ".join(name.split()), name) for name in vocabulary), key=lambda n: -len(n[0])
    )
    found: list[str] = []
    position = 0
    while position < len(text):
        gap = _SEPARATOR.match(text, position)
        if gap and gap.end() > position:
            position = gap.end()
            continue
        for plain, spelled in names:
            end = position + len(plain)
            if (
                plain
                and text[position:end].casefold() == plain.casefold()
                and _ends_label(text, end)
            ):
                name = spelled
                break
        else:
            gap = _SEPARATOR.search(text, position)
            end = gap.start() if gap else len(text)
            name = text[position:end].strip().rstrip(".")
        if name and name not in found:
            found.append(name)
        position = max(end, position + 1)
        if position < len(text) and text[position] == ".":
            position += 1
        while position < len(text) and text[position] == " ":
            position += 1
    return tuple(found)


def _ends_label(text: str, end: int) -> bool:
    rest = text[end : end + 8]
    return not rest.strip(". ") or bool(_SEPARATOR.match(rest)) or rest.startswith((". ", ".,"))


_LABEL_LIST = re.compile(r"(?:from|among|one of) the following(?: \w+){0,3}\s*:\s*", re.IGNORECASE)


def listed_labels(problem: str) -> tuple[str, ...]:
    """The vocabulary of a question that ends in "... from the following: a, b and c, d", split at
    commas.
    """
    found = _LABEL_LIST.search(problem)
    if not found:
        return ()
    listed = problem[found.end() : found.end() + _MAX_LABEL_TEXT].split("\n")[0].strip().rstrip(".")
    names = (re.sub(r"^(?:and|or) ", "", name.strip()) for name in re.split("[,;]", listed))
    return tuple(dict.fromkeys(name for name in names if name))
