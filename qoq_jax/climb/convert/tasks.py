"""The tasks of a conversion: consecutive records, and the part file that holds what they give.

    FOLDER/.conversion/00007.records    a record per line
    FOLDER/.conversion/00007.part       the key of these records and a SHA-256, what was left out,
                                        and a row per line

A part is there whole or not at all and depends on its records and their media alone. So a task may
be made by any worker and twice, and a conversion that was ended goes on with the parts that are
missing, damaged, of other records or another version of this package, or whose media have come,
gone or changed since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from qoq_jax.base import exit_codes, files, lock
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Record
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.convert.row import to_row

FOLDER = ".conversion"
_ROOMS = ("base", "data", "climb")  # whose files decide the rows


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is converted; picklable.

    Attributes:
      converter: of the data set.
      root: folder of the data set.
      seed: of splits, wordings and the order of labels.
    """

    converter: Converter
    root: str
    seed: int

    @property
    def folder(self) -> str:
        """Of records and parts."""
        return os.path.join(self.root, FOLDER)

    def records(self, number: int) -> str:
        """File of the records of a task."""
        return os.path.join(self.folder, f"{number:05d}.records")

    def part(self, number: int) -> str:
        """File of what they give."""
        return os.path.join(self.folder, f"{number:05d}.part")


@dataclasses.dataclass(frozen=True)
class Task:
    """Consecutive records.

    Attributes:
      number: counted from 0.
      key: SHA-256 of the records, the data set, the seed and the version of this package.
      done: whether their part is there.
    """

    number: int
    key: str
    done: bool


@contextlib.contextmanager
def alone(work: Conversion) -> Iterator[None]:
    """Inside, no other process converts in this folder.

    Raises:
      DataError: there is no such folder.
      ConfigError: another process does.
    """
    Folder(work.root)
    os.makedirs(work.folder, exist_ok=True)
    try:
        with lock.hold(work.folder, "convert a copy of the data set"):
            yield
    finally:
        with contextlib.suppress(OSError):  # what is in it is for the next one
            os.rmdir(work.folder)


def remove(work: Conversion) -> None:
    """Removes records and parts, whole or cut short by a kill."""
    for path in pathlib.Path(work.folder).iterdir():
        if not path.name.startswith(lock.NAME):
            with contextlib.suppress(OSError):  # the rows are there; NFS may still hold a name
                path.unlink()


def plan(work: Conversion) -> tuple[list[Task], list[Dropped]]:
    """(tasks, what is left out before any of them), with the records of the tasks that are not done
    in their files.

    Raises:
      DataError: the folder is not laid out as published.
    """
    dropped: list[Dropped] = []
    folder = Folder(work.root)
    found = _without(work.converter.read(folder), dropped)
    planned: list[Task] = []
    while batch := list(itertools.islice(found, work.converter.at_once)):
        content = b"".join(_line(vars(record)) for record in batch)
        task = Task(len(planned), _key(work, content), False)
        done = _is_done(_body(task, work), folder)
        if not done:
            with open(work.records(task.number), "wb") as file:  # no worker runs yet
                file.write(content)
        planned.append(dataclasses.replace(task, done=done))
    return planned, dropped


def make(number: int, work: Conversion) -> None:
    """Makes the part of a task from its records; a worker does this.

    Where a cell or a medium cannot be read the part holds the error, which `read` raises: a runner
    of pipelines would try again, and a damaged file stays one.

    Raises:
      OSError: of a storage that may answer the next time.
    """
    content = files.read_bytes(work.records(number))
    try:
        body = _converted(work, content)
    except DataError as error:
        body = _line({"error": [error.what, error.where, error.hint]})
    except OSError as error:
        if exit_codes.is_transient(error):
            raise
        body = _line({"error": [exit_codes.reason(error), error.filename, None]})
    files.write_bytes(work.part(number), _head(_key(work, content), body) + body)


def read(task: Task, work: Conversion) -> tuple[list[Dropped], list[bytes]]:
    """(what a task has left out, its rows as lines).

    Raises:
      DataError: the task has failed, or its part is not there.
    """
    body = _body(task, work)
    if body is None:
        raise DataError(
            "is not the part of these records",
            where=work.part(task.number),
            hint="start the command again; all workers need one version of qoq_jax",
        )
    first, *lines = body.splitlines(keepends=True)
    found = json.loads(first)
    if "error" in found:
        what, where, hint = found["error"]
        again = "what was converted is kept: start the command again"
        raise DataError(what, where=where, hint=f"{hint}; {again}" if hint else again)
    return [Dropped(*one) for one in found["dropped"]], lines


def _is_done(body: bytes | None, folder: Folder) -> bool:
    """Whether a part is one that `read` takes, and each file that its task has asked for is there
    with the size and time that it had then, or still not there.
    """
    found = json.loads(body.partition(b"\n")[0]) if body else {"error": None}
    if "error" in found:
        return False
    return all(folder.state(path) == before for path, before in found["asked"].items())


def _without(found: Iterator[Record | Dropped], dropped: list[Dropped]) -> Iterator[Record]:
    """The records; what is left out is added to `dropped`."""
    for one in found:
        if isinstance(one, Dropped):
            dropped.append(one)
        else:
            yield one


def _converted(work: Conversion, content: bytes) -> bytes:
    """What the records of a task give, as a part holds it."""
    folder, dropped, lines = Folder(work.root), [], []
    for line in content.splitlines():
        for one in work.converter.found(Record(**json.loads(line)), folder):
            if isinstance(one, Dropped):
                dropped.append((one.id, one.reason))
            else:
                lines.append(_line(to_row(work.converter, one, work.seed).to_dict()))
    return _line({"dropped": dropped, "asked": folder.asked}) + b"".join(lines)


def _body(task: Task, work: Conversion) -> bytes | None:
    """What the part of a task holds; None where it is missing, damaged, or of something else."""
    try:
        content = files.read_bytes(work.part(task.number))
    except FileNotFoundError:
        return None
    body = content.partition(b"\n")[2]
    return body if content == _head(task.key, body) + body else None


def _head(key: str, body: bytes) -> bytes:
    return _line({"key": key, "sha256": hashlib.sha256(body).hexdigest()})


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _key(work: Conversion, content: bytes) -> str:
    about = _line([work.converter.name, work.seed, _version()])
    return hashlib.sha256(about + content).hexdigest()


@functools.cache
def _version() -> str:
    """SHA-256 of the code and tables that decide the rows: no number to forget."""
    package, digest = pathlib.Path(__file__).parents[2], hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((package / room).rglob("*")):
            if path.is_file() and path.parent.name != "__pycache__":
                digest.update(f"{path.relative_to(package)}\n{files.sha256(path)}\n".encode())
    return digest.hexdigest()
