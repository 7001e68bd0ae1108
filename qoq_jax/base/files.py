"""Files that are whole or not there: a temporary file in the same folder, fsync, then a rename.

A reader never sees half a file, and a crash or a full disk leaves the one before. Where a path is a
URL (gs://, s3://) the file is an object that is written with one request, which has the same
effect (base/objects.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from qoq_jax.base import exit_codes, objects
from qoq_jax.base.errors import DataError, QoqError, RetryError

Path = str | os.PathLike


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Yields the name of a temporary file to write, which becomes `path` when the block ends well.

    The folder is made when it is missing; an exception leaves `path` as it was.
    """
    if objects.is_url(path):
        with tempfile.TemporaryDirectory(prefix="qoq_") as folder:
            partial = os.path.join(folder, os.path.basename(path))
            yield partial
            objects.upload(partial, path)
        return
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        # else a power cut may keep the rename and lose the bytes
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, os.path.join(folder, name))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    if objects.is_url(path):
        objects.write(path, content)
        return
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text whole or not at all; line ends stay as they are."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any, indent: int | None = 1, *, ascii_only: bool = True) -> None:
    """Writes JSON whole or not at all; a value that JSON has no form for leaves no file."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=ascii_only))


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    if objects.is_url(path):
        return objects.read(path)
    with open(path, "rb") as file:
        return file.read()


def parse_json(text: str | bytes) -> Any:
    """json.loads that refuses NaN, Infinity and nesting that is too deep.

    Raises:
      ValueError: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


_REQUIRED = object()


def read_json(
    path: Path,
    missing: Any = _REQUIRED,
    *,
    finite: bool = True,
    error: type[QoqError] = DataError,
    hint: str | None = None,
) -> Any:
    """The content of a JSON file.

    Args:
      missing: what to return when there is no such file; without it that is an error.
      finite: refuse NaN and Infinity, which are not JSON. False for the files of a run, where a
        clip range may be infinite and a metric not a number.
      error, hint: of the exception.

    Raises:
      error: the file cannot be read, or is not JSON.
      RetryError: the storage does not answer.
    """
    try:
        content = read_bytes(path)
        return parse_json(content) if finite else json.loads(content)
    except (OSError, ValueError, RecursionError) as found:
        if isinstance(found, FileNotFoundError) and missing is not _REQUIRED:
            return missing
        reason = exit_codes.reason(found)
        if isinstance(found, OSError) and exit_codes.is_transient(found):
            error, hint = RetryError, "start the same command again"
        raise error(f"cannot be read ({reason})", where=str(path), hint=hint) from found


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
