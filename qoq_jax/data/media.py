"""Media of a data folder that is a URL or has shards: what a sample needs, as files while it is
made.

Readers and the libraries below them take paths. `opened` gives a folder of its own to each sample;
a file of it is fetched whole, with two requests (size, bytes; of shards with all that its record
holds), when a reader first asks for it, and all are gone when the sample is made. Containers of
many recordings (HDF5, .mat, .npy), slides of which rows name regions and videos of which they name
intervals are kept on this machine instead (base/objects.py), where they are no shards, which hold
the regions and intervals. Of a local root of plain files nothing
of this happens.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

from qoq_jax.base import objects, storage
from qoq_jax.base.errors import DataError
from qoq_jax.data import shards
from qoq_jax.data.paths import is_part, split_member

MAX_FILE_BYTES = 2 << 30
_KEPT = (".h5", ".hdf5", ".mat", ".npy")
_OLD = 24 * 3600.0  # seconds after which a folder is what a killed process left
_roots: dict[str, str] = {}  # folder of a sample that is being made -> its data folder or URL
_MEMORY = "/dev/shm"
_scratch: dict[tuple[int, bool], str] = {}


@contextlib.contextmanager
def opened(root: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """Yields the folder that media paths are relative to, for `schema.resolve` and the readers.

    Raises:
      DataError: what the block raises, with URLs where it names files of the folder.
    """
    if not storage.is_url(root) and shards.find(root) is None:
        yield root
        return
    root = os.fspath(root).rstrip("/")
    with tempfile.TemporaryDirectory(dir=_scratch_folder(root)) as folder:
        _roots[folder] = root
        try:
            yield folder
        except DataError as error:
            what, where, hint = (
                text and text.replace(folder, root)
                for text in (error.what, error.where, error.hint)
            )
            raise type(error)(what, where=where, hint=hint) from error
        finally:
            del _roots[folder]


def fetched(path: str | os.PathLike) -> pathlib.Path:
    """The path, after the object or record that it stands for was fetched if there is one.

    Raises:
      DataError: the object or record is there and cannot be read, or is over 2 GiB.
    """
    file = pathlib.Path(path)
    if _roots and not file.exists():
        name, member = split_member(path)
        target = os.path.abspath(name)
        for folder, root in list(_roots.items()):
            if target.startswith(folder + os.sep):
                name = os.path.relpath(target, folder).replace(os.sep, "/")
                found = shards.find(root)
                if found is not None:  # of slides and videos it has parts, each under its name
                    if not found.extract(name + member, folder):
                        found.extract(name, folder)
                else:
                    _fetch(f"{root}/{name}", target, is_part(path))
    return file


def sizes(root: str | os.PathLike) -> Callable[[str], int]:
    """Bytes of a medium by its path below a data folder, -1 when it is not there."""
    found = shards.find(root)
    return storage.sizes(os.fspath(root)) if found is None else found.size


def _fetch(url: str, target: str, in_part: bool) -> None:
    """Puts an object at `target`; one of which a part is read is kept for others to come."""
    try:
        facts = objects.info(url)
        if facts["type"] != "file" or os.path.exists(target):
            return
        if facts["size"] > MAX_FILE_BYTES and not in_part:
            raise DataError("the file is over 2 GiB", where=url, hint="crop or split it")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if in_part or target.lower().endswith(_KEPT):
            _link(objects.local(url), target)
        else:
            with open(target, "wb") as file:
                file.write(objects.read(url, 0, int(facts["size"])))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=url, hint="check the store and its rights"
        ) from error


def _link(kept: str, target: str) -> None:
    try:
        os.link(kept, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(kept, target)


def _scratch_folder(root: str) -> str:
    """Where the folders of samples are, without what killed processes left there.

    Objects: beside those that are kept, which files are linked to. Shards: in memory where there is
    room for the largest samples, since to make and remove folders on a disk takes milliseconds.
    """
    key = os.getpid(), storage.is_url(root)
    if key not in _scratch:
        parent = objects.cache_folder("media") if key[1] else _in_memory()
        for name in os.listdir(parent):
            old = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                if time.time() - os.stat(old).st_mtime > _OLD:
                    shutil.rmtree(old, ignore_errors=True)
        _scratch[key] = parent
    return _scratch[key]


def _in_memory() -> str:
    """A folder of this user on Linux's file system in memory, or else on the disk."""
    parent = os.path.join(_MEMORY, f"qoq-{os.getuid()}")
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_MEMORY).free >= 2 * MAX_FILE_BYTES:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            # of nobody else, who could have made it before to read what is written there
            if os.stat(parent).st_uid == os.getuid() and not os.path.islink(parent):
                return parent
    return objects.cache_folder("media")
