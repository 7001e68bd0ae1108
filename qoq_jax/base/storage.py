"""Folders and files by a path of this machine or by a URL (gs://, s3://): the one place that tells
them apart, beside base/files.py, which reads and writes their content.

A local path goes to the operating system as it is. An object store has no folders, renames or
appends (docs/remote.md); os.path.join and os.path.basename are right for URLs too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

from qoq_jax.base import errors, objects
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.base.objects import is_url

__all__ = ["is_url"]


def absolute(path: str) -> str:
    """os.path.abspath; a URL without slashes at its end."""
    return path.rstrip("/") if is_url(path) else os.path.abspath(path)


def check_local(path: str) -> None:
    """For a folder that files are made in with the operating system's own calls.

    Raises:
      ConfigError: it is a URL.
    """
    if is_url(path):
        raise ConfigError(
            "this command makes files in a folder of this machine alone",
            where=path,
            hint="name a folder, and copy it to the bucket then (gcloud storage rsync, aws s3 "
            "sync)",
        )


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    return objects.kind(path) is not None if is_url(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    """Whether there is a folder; one of objects is there while there is an object below it."""
    return objects.kind(path) == "directory" if is_url(path) else os.path.isdir(path)


def is_file(path: str) -> bool:
    """Whether there is a file."""
    return objects.kind(path) == "file" if is_url(path) else os.path.isfile(path)


def names(folder: str) -> list[str]:
    """os.listdir, sorted; [] when there is no folder."""
    if is_url(folder):
        return sorted(objects.names(folder))
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and all below it, sorted at every level."""
    if not is_url(folder):
        for where, folders, found in os.walk(folder):
            folders.sort()
            yield where, sorted(found)
        return
    by_folder: dict[tuple[str, ...], list[str]] = {}
    for path in objects.tree(folder):
        *parents, name = path.split("/")
        by_folder.setdefault(tuple(parents), []).append(name)
    for parents in sorted(by_folder):
        yield "/".join((folder.rstrip("/"), *parents)), sorted(by_folder[parents])


def size(path: str) -> int:
    """Bytes of a file, -1 when it is not there."""
    try:
        return int(objects.info(path)["size"]) if is_url(path) else os.stat(path).st_size
    except FileNotFoundError:
        return -1
    except OSError:
        if is_url(path):  # it may be there: the store does not say
            raise
        return -1


def sizes(root: str) -> Callable[[str], int]:
    """`size` of relative paths below a root, for very many: of objects a folder is listed once,
    which gives the sizes of 1,000 with each request.
    """
    if not is_url(root):
        return lambda path: size(os.path.join(root, path))
    listed: dict[str, dict[str, int]] = {}

    def of(path: str) -> int:
        folder, _, name = path.rpartition("/")
        if folder not in listed:
            if len(listed) >= 256:  # trees of one folder per patient are read in order
                listed.clear()
            found = objects.names(os.path.join(root, folder) if folder else root)
            listed[folder] = {key: int(one["size"]) for key, one in found.items()}
        return listed[folder].get(name, -1)

    return of


def make_folder(path: str) -> None:
    """Makes a local folder; objects need none, but their store must be within reach."""
    if is_url(path):
        objects.kind(path)
    else:
        os.makedirs(path, exist_ok=True)


def remove(path: str) -> None:
    """Deletes a file."""
    objects.remove(path) if is_url(path) else os.remove(path)


def remove_tree(folder: str) -> None:
    """Deletes a folder with all that is in it, if it is there."""
    if is_url(folder):
        objects.remove_tree(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def local(path: str) -> str:
    """The path of a file on this machine: the path itself, or that of a copy of an object."""
    return objects.local(path) if is_url(path) else path


@contextlib.contextmanager
def filling(folder: str) -> Iterator[str]:
    """Yields an empty local folder to fill: `folder` itself, emptied, or one whose files become
    objects below the URL when the block ends well.
    """
    if not is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="qoq_") as made:
        yield made
        remove_tree(folder)
        objects.upload_tree(made, folder.rstrip("/"))


@contextlib.contextmanager
def new_folder(folder: str, last: str | None = None, write: bool = True) -> Iterator[str]:
    """Yields a local folder to fill, which becomes `folder`, all of it or nothing.

    Objects appear one after the other: the file called `last` is the one that makes a whole of
    them.

    Args:
      write: False in a process that only takes part; nothing is made then.

    Raises:
      CheckpointError: `folder` exists and is not empty.
    """
    target = absolute(folder)
    if exists(target) and (not is_dir(target) or names(target)):
        raise CheckpointError("already exists", where=folder, hint="name a new directory")
    if is_url(target):
        with tempfile.TemporaryDirectory(prefix="qoq_") as made:
            yield made
            if write:
                objects.upload_tree(made, target, last)
        return
    partial = f"{target}.partial-{os.getpid()}"
    if write:
        os.makedirs(partial)
    try:
        yield partial
        if write:
            if os.path.isdir(target):
                os.rmdir(target)
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def local_folder(folder: str, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the folder, or a local copy of one of objects that lasts as long as the block.

    Args:
      leave_out: names of folders in it that are not copied.
    """
    if not is_url(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="qoq_") as made:
        errors.is_copy(made, folder.rstrip("/"))
        for name, facts in objects.names(folder).items():
            if name in leave_out:
                continue
            url = f"{folder.rstrip('/')}/{name}"
            found = [""] if facts["type"] == "file" else [f"/{one}" for one in objects.tree(url)]
            for path in found:
                target = f"{made}/{name}{path}"
                os.makedirs(os.path.dirname(target), exist_ok=True)
                objects.download(url + path, target)
        yield made
