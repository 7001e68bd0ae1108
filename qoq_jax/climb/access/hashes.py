"""Digests as hosts write them: "sha256:HEX", "md5:HEX", "git:HEX"."""

from __future__ import annotations

import hashlib
import pathlib
import re

_LENGTHS = {"sha256": 64, "md5": 32, "git": 40}
_HEX = re.compile(r"[0-9a-f]+")


def digest(algorithm: str, text: str) -> str:
    """A digest in our form, or "" when the text is none."""
    text = text.strip().lower()
    fits = len(text) == _LENGTHS.get(algorithm) and _HEX.fullmatch(text)
    return f"{algorithm}:{text}" if fits else ""


class Hasher:
    """SHA-256 of a file as it is written, and the host's own digest of it.

    Args:
      digest: says the other algorithm; may be "".
      size: of the whole file, which a git blob's hash begins with.
    """

    def __init__(self, digest: str = "", size: int | None = None):
        self._hashes = {"sha256": hashlib.sha256()}
        algorithm = digest.partition(":")[0]
        if algorithm == "md5":
            self._hashes["md5"] = hashlib.md5(usedforsecurity=False)
        elif algorithm == "git":
            self._hashes["git"] = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        for one in self._hashes.values():
            one.update(piece)

    def hex(self) -> dict[str, str]:
        """Hex digests by algorithm."""
        return {name: one.hexdigest() for name, one in self._hashes.items()}


def of_file(path: pathlib.Path, digest: str = "") -> dict[str, str]:
    """Hex digests of a file, by algorithm."""
    hasher = Hasher(digest, path.stat().st_size)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hex()
