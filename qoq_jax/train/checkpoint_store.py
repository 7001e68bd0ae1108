"""Where the checkpoints of a stage lie: a folder of this machine, gs:// or another object store.

Orbax writes to a folder and to gs:// itself. To s3:// it cannot write (google/orbax issue 359), so
its checkpoints are made in a folder of this machine and uploaded in its background thread:

    all files of the step with sha256.json, then seal.txt, then commit_success.txt, which makes it
    a checkpoint, as Orbax has it on gs://

The store is what counts: on another machine the small files of its steps are fetched first, so that
Orbax knows the steps and their scores, and the arrays of one step when it is read. Whoever only
reads has a folder of its own, since a run may be training beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator

from qoq_jax.base import files, objects, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.parallel import hosts
from qoq_jax.train import checksums
from qoq_jax.train.checksums import CHECKSUMS, COMMIT, SEAL

_ARRAYS = "state/"  # what of a step is not fetched until it is read
_READING = "reading-"  # how the folders of those that only read begin
_OLD = 24 * 3600.0  # seconds after which such a folder is what a killed process left
_UPLOADED = b"uploaded whole"


def check(workdir: str) -> None:
    """Raises ConfigError when checkpoints cannot be written there."""
    if _is_staged(workdir) and hosts.process_count() > 1:
        raise ConfigError(
            f"{hosts.process_count()} processes cannot write checkpoints there: Orbax writes to "
            "gs:// and to shared folders alone",
            where=workdir,
            hint="use gs://, or a folder that all hosts share (NFS, FSx, Filestore)",
        )


def place(folder: str, read_only: bool = False) -> Place:
    """The place of the numbered steps of a stage.

    Args:
      read_only: for one that writes and deletes nothing; any number of them may be open. Of the
        others there is one at a time, which the lock of the workdir sees to.
    """
    if not _is_staged(folder):
        return Place(folder)
    return Copied(folder) if read_only else Staged(folder)


def has_checkpoint(folder: str) -> bool:
    """Whether a stage's folder holds a committed step."""
    return bool(committed(folder))


def committed(folder: str) -> list[int]:
    """The committed steps in a stage's folder, the first one first."""
    if storage.is_url(folder):
        return sorted(_committed(folder))
    return sorted(int(name) for name in storage.names(folder) if name.isdigit())


class Place:
    """A folder that Orbax writes to.

    Attributes:
      folder: where Orbax reads and writes the steps.
      name: the same as the user knows it, a folder or a URL.
    """

    def __init__(self, folder: str):
        self.folder = self.name = storage.absolute(folder)

    def commit(self, step: int, folder: str) -> None:
        """Called in Orbax's thread when all files of a step are in `folder`, before it commits."""

    def seal(self, step: int) -> None:
        """Called in Orbax's thread when a step is committed."""
        checksums.write_seal(os.path.join(self.folder, str(step)))

    def fetch(self, step: int) -> None:
        """Called before a step is read."""

    def keep_only(self, steps: Iterable[int]) -> None:
        """Called with the steps that Orbax keeps, when no save is under way."""

    def set_aside(self, step: int) -> str:
        """Takes the number from a damaged step; returns where its files are now."""
        return _set_aside(self.folder, step)

    def close(self) -> None:
        """Called when nothing more is read or written."""


class Copied(Place):
    """Steps of an object store that Orbax does not write to, for reading."""

    def __init__(self, url: str):
        self.name = self._url = storage.absolute(url)
        self.folder = self._make_folder()
        for step in _committed(self._url):
            self._copy(step, arrays=False)

    def _make_folder(self) -> str:
        parent = objects.cache_folder("checkpoints")
        for name in os.listdir(parent):
            old = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                if name.startswith(_READING) and time.time() - os.stat(old).st_mtime > _OLD:
                    shutil.rmtree(old, ignore_errors=True)
        return tempfile.mkdtemp(prefix=_READING, dir=parent)

    def fetch(self, step: int) -> None:
        self._copy(step, arrays=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _copy(self, step: int, arrays: bool) -> None:
        found = objects.tree(f"{self._url}/{step}")
        for name, facts in found.items():
            target = os.path.join(self.folder, str(step), name)
            if name.startswith(_ARRAYS) and not arrays:
                continue
            # Of the files of the commit Orbax has made its own here.
            if storage.size(target) != facts["size"] or name in (*checksums.AT_COMMIT, SEAL):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                objects.download(f"{self._url}/{step}/{name}", target)


class Staged(Copied):
    """The same for the run that writes them. Its folder stays, and holds what it wrote last."""

    def _make_folder(self) -> str:
        name = hashlib.sha256(self._url.encode()).hexdigest()[:16]
        folder = objects.cache_folder("checkpoints", name)
        steps = set(map(str, _committed(self._url)))
        for name in os.listdir(folder):
            if name not in steps or not self._is_same(os.path.join(folder, name)):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
        return folder

    def close(self) -> None:
        """Nothing: see above."""

    def commit(self, step: int, folder: str) -> None:
        target = f"{self._url}/{step}"
        objects.remove(f"{target}/{COMMIT}")  # of a damaged one that has the same number
        objects.remove_tree(target)
        sums = checksums.digests(folder, at_commit=True)
        sums[COMMIT] = hashlib.sha256(_UPLOADED).hexdigest()
        objects.upload_tree(folder, target)
        objects.write(f"{target}/{SEAL}", checksums.seal(sums))
        objects.write(f"{target}/{COMMIT}", _UPLOADED)

    def seal(self, step: int) -> None:
        """Nothing: the step of the store is sealed."""

    def keep_only(self, steps: Iterable[int]) -> None:
        kept = set(steps)
        for step in _committed(self._url):
            if kept and step not in kept:
                objects.remove(f"{self._url}/{step}/{COMMIT}")
                objects.remove_tree(f"{self._url}/{step}")

    def set_aside(self, step: int) -> str:
        shutil.rmtree(os.path.join(self.folder, str(step)), ignore_errors=True)
        return _set_aside(self._url, step)

    def _is_same(self, folder: str) -> bool:
        """Whether the step of this machine is the one of the store: another run may have had it."""
        theirs = f"{self._url}/{os.path.basename(folder)}/{CHECKSUMS}"
        try:
            return files.read_bytes(os.path.join(folder, CHECKSUMS)) == files.read_bytes(theirs)
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def writing(folder: str) -> Iterator[str]:
    """Yields where Orbax writes a single checkpoint, which is in `folder` when the block ends."""
    if not _is_staged(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=objects.cache_folder("checkpoints")) as made:
        yield os.path.join(made, "0")
        objects.remove_tree(folder)
        objects.upload_tree(os.path.join(made, "0"), folder, last=CHECKSUMS)


@contextlib.contextmanager
def reading(folder: str) -> Iterator[str]:
    """Yields where Orbax reads a single checkpoint."""
    if not _is_staged(folder):
        yield folder
        return
    with storage.local_folder(folder) as made:
        yield made


def _is_staged(folder: str) -> bool:
    return storage.is_url(folder) and not folder.startswith("gs://")


def _committed(url: str) -> list[int]:
    steps = [int(name) for name in storage.names(url) if name.isdigit()]
    return [step for step in sorted(steps) if storage.is_file(f"{url}/{step}/{COMMIT}")]


def _set_aside(folder: str, step: int) -> str:
    source, kept = os.path.join(folder, str(step)), os.path.join(folder, f"damaged-{step}")
    storage.remove_tree(kept)
    if not storage.is_url(folder):
        os.rename(source, kept)
        return kept
    # No rename in an object store: without the mark it is no checkpoint, whatever comes after.
    objects.remove(f"{source}/{COMMIT}")
    for name in objects.tree(source):
        objects.copy(f"{source}/{name}", f"{kept}/{name}")
    objects.remove_tree(source)
    return kept
