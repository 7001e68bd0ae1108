"""Records on disk as soon as they are there, so that a killed evaluation goes on where it was.

    FOLDER/identity.json       what is evaluated; a folder of something else is refused
    FOLDER/rows-PROCESS.jsonl  a line for each response, and one for its scores; only appended to
    FOLDER/evaluation.json     all records in the order of the rows, once they are complete

A line is a record of metrics.py, or a part of one, with the number of the response: "sample".
Lines of one response are merged, so a line that was written twice changes nothing. A kill may leave
a last line without its end: it is no line, and the next writer removes it. Each process appends to
a file of its own, in a folder that all of them see; any number of processes may continue.
"""

from __future__ import annotations

import json
import os
from typing import Any

from qoq_jax.base import append, files
from qoq_jax.base.errors import ConfigError, DataError

# (source, id) of a row, and which of the responses to it.
Key = tuple[str, str, int]
DONE = "evaluation.json"
_IDENTITY = "identity.json"


class RowFiles:
    """The folder of one evaluation.

    Args:
      process: this one's index; its file is the one that it appends to.
    """

    def __init__(self, folder: str, process: int = 0):
        self._folder = folder
        self._mine = os.path.join(folder, f"rows-{process}.jsonl")
        self._lines = append.Lines(self._mine)
        self._trimmed = False

    def claim(self, identity: dict[str, Any]) -> bool:
        """Begins the evaluation, or goes on with it; returns whether it is complete. For one
        process alone, before the others read or write.

        Args:
          identity: JSON of all that decides the records.

        Raises:
          ConfigError: the folder holds an evaluation of something else.
        """
        identity = json.loads(json.dumps(identity))  # tuples are lists there
        theirs = files.read_json(os.path.join(self._folder, _IDENTITY), {})
        changed = sorted(k for k in identity if theirs and theirs.get(k) != identity[k])
        if changed:
            raise ConfigError(
                f"was begun with other {', '.join(changed)}",
                where=self._folder,
                hint="name another folder for the results, or delete this one",
            )
        if not theirs:
            files.write_json(os.path.join(self._folder, _IDENTITY), identity)
        return os.path.exists(os.path.join(self._folder, DONE))

    def add(self, record: dict, sample: int) -> None:
        """Writes a record, or a part of one with at least its source and id."""
        if not self._trimmed:
            _trim(self._mine)
            self._trimmed = True
        self._lines.write(json.dumps(record | {"sample": sample}) + "\n")

    def read(self) -> dict[Key, dict]:
        """The records so far, of all processes.

        Raises:
          DataError: a line other than the last one of a file is no JSON.
        """
        found: dict[Key, dict] = {}
        for name in sorted(os.listdir(self._folder)):
            if name.startswith("rows-") and name.endswith(".jsonl"):
                for line in _lines(os.path.join(self._folder, name)):
                    key = line["source"], line["id"], line["sample"]
                    found.setdefault(key, {}).update(line)
        return found

    def finish(self, content: dict[str, Any]) -> None:
        """Writes the complete evaluation and removes the lines."""
        files.write_json(os.path.join(self._folder, DONE), content, indent=None)
        for name in os.listdir(self._folder):
            if name.startswith("rows-") and name.endswith(".jsonl"):
                os.remove(os.path.join(self._folder, name))


def _lines(path: str) -> list[dict]:
    """The whole lines of a file."""
    *whole, _ = files.read_bytes(path).split(b"\n")
    try:
        return [json.loads(line) for line in whole]
    except ValueError:
        raise DataError(
            "a line is no JSON", where=path, hint="delete the file: its rows are done again"
        ) from None


def _trim(path: str) -> None:
    """Removes what follows the last line end."""
    if os.path.exists(path):
        content = files.read_bytes(path)
        if not content.endswith(b"\n"):
            with open(path, "rb+") as file:
                file.truncate(content.rfind(b"\n") + 1)
