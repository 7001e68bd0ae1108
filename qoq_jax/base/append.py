"""Text files that grow by lines. An object store cannot append: there the whole text is written
again, in the background and as seldom as its size asks for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import weakref

from qoq_jax.base import objects

OFTEN = 1.0  # seconds between two writes of a text, at least ...
SHARE = 20  # ... and this many times as long as the last one took

_open: weakref.WeakSet[Lines | Folder] = weakref.WeakSet()


class Lines:
    """Lines added to the end of a file.

    A local file has each line when `write` returns. An object has it after `flush` at the latest:
    a checkpoint calls it (`flush_all`), so that no line of a step before a checkpoint gets lost.
    """

    def __init__(self, path: str):
        self._path, self._text = path, None
        self._dirty, self._next = False, 0.0
        self._sending: threading.Thread | None = None
        self._error: OSError | None = None
        if objects.is_url(path):
            _open.add(self)

    def write(self, text: str) -> None:
        """Adds lines, each with its line end.

        Raises:
          OSError: the file cannot be written.
        """
        if not objects.is_url(self._path):
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(text)
            return
        if self._text is None:
            self._text = _read(self._path)
        self._text, self._dirty = self._text + text, True
        sending = self._sending is not None and self._sending.is_alive()
        if time.monotonic() >= self._next and not sending:
            self._raise()
            self._sending = threading.Thread(target=self._send, args=(self._text,), daemon=True)
            self._dirty = False
            self._sending.start()

    def flush(self) -> None:
        """Returns when all lines are in the object.

        Raises:
          OSError: they cannot be written.
        """
        if self._sending is not None:
            self._sending.join()
        self._raise()
        if self._dirty:
            self._dirty = False
            self._send(self._text)
            self._raise()

    def _send(self, text: str) -> None:
        began = time.monotonic()
        try:
            objects.write(self._path, text.encode())
        except OSError as error:
            self._error = error
        now = time.monotonic()
        self._next = now + max(OFTEN, SHARE * (now - began))

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._dirty = True
            raise error


class Folder:
    """A folder in which a library appends to files of this process (TensorBoard's events).

    Attributes:
      path: of the folder to write to; for a URL one of this machine, whose files are uploaded by
        `flush` when they have grown.
    """

    def __init__(self, path: str):
        self.path, self._url, self._sent = path, path, {}
        if objects.is_url(path):
            self.path = tempfile.mkdtemp(prefix="qoq_")
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
            _open.add(self)

    def flush(self) -> None:
        """Returns when the files are uploaded.

        Raises:
          OSError: they cannot be written.
        """
        if self.path == self._url:
            return
        for name in os.listdir(self.path):
            file = os.path.join(self.path, name)
            if self._sent.get(name) != (size := os.path.getsize(file)):
                objects.upload(file, f"{self._url}/{name}")
                self._sent[name] = size


def flush_all() -> None:
    """`flush` of all files and folders of this process.

    A run calls it at its end. When Python itself ends it is too late: no client can make a request
    then.
    """
    for one in list(_open):
        one.flush()


def _read(url: str) -> str:
    try:
        return objects.read(url).decode()
    except FileNotFoundError:
        return ""
