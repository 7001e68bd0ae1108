"""What a folder has of a data set: manifest.json, and a journal of what came since it was written.

    {"name": "ptb-xl", "kind": "physionet-open", "source": "ptb-xl", "version": "1.0.3",
     "files": {"RECORDS": {"size": 21, "sha256": "..."}},
     "archives": {"a.zip": {"size": 9, "sha256": "...", "md5": "..."}}}

A file out of an archive says so in "from". The journal has one line per file; of a line that was
being written when the process was killed, nothing is believed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any, Self

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access.access import Access, File

NAME = "manifest.json"
WORK = ".download"  # partial files and the journal; gone when all is done
_SAME = ("name", "kind", "source", "version")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file that is there.

    Attributes:
      size: in bytes.
      hashes: hex digests by algorithm; "sha256" always.
      archive: what it was unpacked from; "" for a file of its own.
    """

    size: int
    hashes: Mapping[str, str]
    archive: str = ""

    def to_json(self) -> dict[str, Any]:
        origin = {"from": self.archive} if self.archive else {}
        return {"size": self.size, **self.hashes, **origin}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        rest = dict(value)
        return cls(rest.pop("size"), archive=rest.pop("from", ""), hashes=rest)


class Manifest:
    """The manifest of a folder, for any number of threads. Files are added inside a `with`."""

    def __init__(self, root: pathlib.Path, access: Access):
        self._root = root
        self._same = {key: getattr(access, key) for key in _SAME}
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._journal_path = root / WORK / "journal.jsonl"
        self.files: dict[str, Entry] = {}
        self.archives: dict[str, Entry] = {}
        self._read()
        self._replay()
        self._members: dict[str, list[str]] = {}
        for path, entry in self.files.items():
            if entry.archive:
                self._members.setdefault(entry.archive, []).append(path)

    def __enter__(self) -> Self:
        self._journal_path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = self._open.enter_context(open(self._journal_path, "a", encoding="utf-8"))
        self._journal.write("\n")  # ends what a killed process left
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __bool__(self) -> bool:
        return bool(self.files or self.archives)

    def has(self, file: File) -> bool:
        """Whether a file, or all that its archive holds, was finished and is still there."""
        entry = (self.files if file.unpack is None else self.archives).get(file.path)
        if entry is None or not _fits(entry, file):
            return False
        if file.unpack is None:
            return self._is_there(file.path)
        members = file.members if file.members is not None else self._members.get(file.path, ())
        return all(path in self.files and self._is_there(path) for path in members)

    def _is_there(self, path: str) -> bool:
        try:
            return (self._root / path).stat().st_size == self.files[path].size
        except OSError:
            return False

    def add(self, path: str, entry: Entry) -> None:
        """Notes a file that is in place."""
        with self._lock:
            self.files[path] = entry
            if entry.archive:
                self._members.setdefault(entry.archive, []).append(path)
            self._note({"path": path, **entry.to_json()})

    def add_archive(self, path: str, entry: Entry) -> None:
        """Notes an archive all members of which are in place."""
        with self._lock:
            self.archives[path] = entry
            self._note({"path": path, "archive": True, **entry.to_json()})

    def save(self) -> None:
        """Writes manifest.json and ends the journal."""
        os.sync()  # small files are not each waited for
        with self._lock:
            content = {
                **self._same,
                "files": {path: self.files[path].to_json() for path in sorted(self.files)},
                "archives": {path: self.archives[path].to_json() for path in sorted(self.archives)},
            }
            files.write_json(self._root / NAME, content)
            self._open.close()
            self._journal_path.unlink()

    def _note(self, line: dict[str, Any]) -> None:
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()

    def _read(self) -> None:
        found = files.read_json(self._root / NAME, missing=None)
        if found is None:
            return
        where = str(self._root)
        try:
            before = {key: found[key] for key in _SAME}
            self.files = {path: Entry.from_json(one) for path, one in found["files"].items()}
            self.archives = {path: Entry.from_json(one) for path, one in found["archives"].items()}
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ConfigError(
                f"has a {NAME} that is no download's", where=where, hint="choose another folder"
            ) from None
        if before != self._same:
            has, asked = (f"{one['name']} {one['version']}".strip() for one in (before, self._same))
            raise ConfigError(
                f"holds {has}" + (f", not {asked}" if has != asked else " of another source"),
                where=where,
                hint="choose another folder",
            )

    def _replay(self) -> None:
        try:
            lines = self._journal_path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                one = json.loads(line)
                table = self.archives if one.pop("archive", False) else self.files
                path = one.pop("path")
                table[path] = Entry.from_json(one)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut off by the end of the process


def _fits(entry: Entry, file: File) -> bool:
    """Whether the host still has the file that was downloaded, as far as both say."""
    algorithm, _, digest = file.digest.partition(":")
    if file.size is not None and file.size != entry.size:
        return False
    return not digest or entry.hashes.get(algorithm, digest) == digest
