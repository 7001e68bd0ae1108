"""Objects in Google Cloud Storage and S3, by URL: the one file that talks to an object store.

It goes through fsspec: gcsfs for gs://, s3fs for s3://, and fsspec's own memory:// for tests.
Credentials are those of the environment (application default credentials, the AWS chain); there is
no setting for them. `storage` and `files` choose between this file and the local file system.

Every call is tried again while the store throttles, times out or cuts an answer short, with waits
that double (FIRST_WAIT to LONGEST_WAIT seconds, with jitter), ATTEMPTS times. What fails for good
is an OSError with the URL as its file name, as the operating system would raise for a local file.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import errno
import fcntl
import glob
import hashlib
import importlib
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from qoq_jax.base import errors
from qoq_jax.base.errors import ConfigError, DataError

ATTEMPTS = 8
FIRST_WAIT, LONGEST_WAIT = 0.5, 16.0  # seconds
BLOCK = 16 << 20  # bytes of one request of a download
AT_ONCE = 8  # requests of a download, or of an upload of a folder
EXTRAS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3"), "memory": ("fsspec", None)}
_OPTIONS = {
    # One layer repeats requests, the one below here.
    "s3": {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 1}}},
    "gs": {},
    "memory": {},
}
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError)
_LIBRARIES = ("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "requests", "urllib3")
_systems: dict[tuple[str, int], Any] = {}
T = TypeVar("T")


def is_url(path: object) -> bool:
    """Whether a path is the URL of an object or of a folder of objects."""
    return isinstance(path, str) and "://" in path


def system(url: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
      ConfigError: a scheme that is not known, or its package is not installed.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in EXTRAS:
        raise ConfigError(
            f"the scheme {scheme}:// is not known",
            where=url,
            hint="use gs://BUCKET/PATH, s3://BUCKET/PATH or a path of this machine",
        )
    if not rest.strip("/"):
        raise ConfigError("names no bucket", where=url, hint=f"write {scheme}://BUCKET/PATH")
    key = scheme, os.getpid()  # a forked child has none of the threads behind its parent's
    if key not in _systems:
        package, extra = EXTRAS[scheme]
        try:
            importlib.import_module(package)  # slow, and of no use for local paths
            import fsspec

            # Also for the clients that Orbax and JAX make through etils.epath: a list that is kept
            # shows neither what another host nor what this file has written.
            fsspec.config.conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)
            found = fsspec.filesystem(scheme, skip_instance_cache=True, **_OPTIONS[scheme])
        except ImportError:
            raise ConfigError(
                f"{scheme}:// needs the package {package}",
                where=url,
                hint=f'pip install "qoq_jax[{extra}]"',
            ) from None
        found.retries = 1
        if f"{package.upper()}_DEBUG" not in os.environ:
            # gcsfs logs a traceback when its only attempt fails, though the one here repeats it.
            logging.getLogger(package).setLevel(logging.CRITICAL)
        _systems[key] = found
    return _systems[key]


# ----------------------------------------------------------------------------------------- requests


def tried(url: str, call: Callable[[Any], T]) -> T:
    """`call(file system)`, again while what it raises may pass.

    Raises:
      OSError: with `url` as its file name. FileNotFoundError, FileExistsError and PermissionError
        at once, others after the last attempt.
    """
    store, wait = system(url), FIRST_WAIT
    for attempt in range(ATTEMPTS):
        try:
            return call(store)
        except Exception as error:
            failed = _failed(error, url)
            if failed is None:
                raise
            final = isinstance(failed, _FINAL) or failed.errno == errno.EINVAL
            if final or attempt + 1 == ATTEMPTS:
                raise failed from error
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2 * wait, LONGEST_WAIT)
    raise AssertionError("unreachable")


def _failed(error: Exception, url: str) -> OSError | None:
    """The OSError that stands for what a library raised; None for a mistake of the program."""
    library = type(error).__module__.partition(".")[0]
    if not isinstance(error, (OSError, TimeoutError)) and library not in _LIBRARIES:
        return None
    status = getattr(error, "code", None)  # of gcsfs
    name = type(error).__name__
    if isinstance(error, FileNotFoundError) or status in (404, "404"):
        return FileNotFoundError(errno.ENOENT, "no such object", url)
    if isinstance(error, FileExistsError) or status in (412, "412"):
        return FileExistsError(errno.EEXIST, "exists already", url)
    if "Credential" in name:
        return PermissionError(errno.EACCES, "no credentials in this environment", url)
    if isinstance(error, PermissionError) or status in (401, 403, "401", "403"):
        return PermissionError(errno.EACCES, "access denied", url)
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(errno.EISDIR, "is a folder of objects", url)
    if name in ("ParamValidationError", "NoRegionError"):
        return OSError(errno.EINVAL, " ".join(str(error).split())[:160], url)
    said = " ".join(str(getattr(error, "strerror", None) or error).split())[:160] or name
    return OSError(getattr(error, "errno", None) or errno.EIO, said, url)


def info(url: str) -> dict[str, Any]:
    """What the store says of an object or folder: "size", "type" ("file" or "directory") and more.

    Raises:
      FileNotFoundError: there is none.
    """
    return tried(url, lambda store: store.info(url))


def version(facts: dict[str, Any]) -> str:
    """What changes whenever an object is written: its generation, ETag or time."""
    for key in ("generation", "ETag", "etag", "LastModified", "mtime", "created"):
        if facts.get(key):
            return str(facts[key]).strip('"')
    return ""


def kind(url: str) -> str | None:
    """ "file", "directory" or None."""
    try:
        return info(url)["type"]
    except FileNotFoundError:
        return None


def names(url: str) -> dict[str, dict[str, Any]]:
    """The objects and folders in a folder by name; {} when it is not there.

    Raises:
      DataError: a name that would lead out of a local folder.
    """
    try:
        found = tried(url, lambda store: store.ls(url, detail=True))
    except FileNotFoundError:
        return {}
    below = system(url)._strip_protocol(url)
    named = {one["name"].rstrip("/").rpartition("/")[2]: one for one in found}
    # A folder's own marker object is not in it; nor is an object of that very name.
    return {
        _safe(name, url): one
        for name, one in named.items()
        if one["name"].rstrip("/") != below.rstrip("/")
    }


def tree(url: str) -> dict[str, dict[str, Any]]:
    """All objects below a folder by their relative path.

    Raises:
      DataError: a path that would lead out of a local folder.
    """
    try:
        found = tried(url, lambda store: store.find(url, detail=True))
    except FileNotFoundError:
        return {}
    prefix = system(url)._strip_protocol(url).rstrip("/") + "/"
    return {
        _safe(name.removeprefix(prefix), url): one
        for name, one in found.items()
        if name.startswith(prefix) and not name.endswith("/")
    }


def _safe(path: str, url: str) -> str:
    """The relative path of an object below `url`, which may become that of a local file.

    A key may be any string: whoever writes into a bucket must not choose where files of this
    machine go. A leading slash is an empty part.
    """
    if {"", ".", ".."} & set(path.split("/")) or "\\" in path or "\0" in path:
        raise DataError(
            f"the object {path!r} in it is no path below a folder (an empty part, '.', '..', a "
            "backslash or a NUL)",
            where=url,
            hint="rename or delete it with the tools of the store",
        )
    return path


def read(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of an object, or of a part of it; an answer that is cut short is asked for again.

    With an `end` it takes one request, else two: the store is asked for the size.

    Raises:
      OSError: it cannot be read.
    """

    if end is not None and end <= (start or 0):
        return b""  # a store refuses a range of no bytes

    def call(store: Any) -> bytes:
        wanted = end - (start or 0) if end is not None else store.info(url)["size"] - (start or 0)
        found = store.cat_file(url, start=start, end=end)
        if len(found) != wanted:
            raise OSError(errno.EIO, f"{len(found)} bytes came of {wanted}", url)
        return found

    return tried(url, call)


def write(url: str, content: bytes) -> None:
    """Writes an object whole; readers see the one before until then."""
    tried(url, lambda store: store.pipe_file(url, content))


def create(url: str, content: bytes) -> bool:
    """Writes an object unless there is one; of several callers one gets True.

    It asks the store for that (If-None-Match on S3, generation 0 on Google Cloud).
    """
    attempts = []

    def call(store: Any) -> None:
        attempts.append(1)
        store.pipe_file(url, content, mode="create")

    try:
        tried(url, call)
    except FileExistsError:
        if len(attempts) == 1:
            return False
        # The answer to the first attempt may have got lost, and this one found what it wrote.
        try:
            return read(url) == content
        except FileNotFoundError:
            return False
    return True


def remove(url: str) -> None:
    """Deletes an object if it is there."""
    with contextlib.suppress(FileNotFoundError):
        tried(url, lambda store: store.rm_file(url))


def remove_tree(url: str) -> None:
    """Deletes all objects below a folder."""
    below = [f"{url.rstrip('/')}/{name}" for name in tree(url)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(remove, below))


def copy(url: str, to: str) -> None:
    """Copies an object inside of its store."""
    tried(url, lambda store: store.cp_file(url, to))


# -------------------------------------------------------------------------------- files and folders


def upload(path: str, url: str) -> None:
    """Writes a local file as an object; a large one in parts that become visible at the end."""

    def call(store: Any) -> None:
        store.put_file(path, url)
        wanted, found = os.path.getsize(path), store.info(url)["size"]
        if found != wanted:
            raise OSError(errno.EIO, f"{found} bytes arrived of {wanted}", url)

    tried(url, call)


def upload_tree(folder: str, url: str, last: str | None = None) -> None:
    """Writes all files below a local folder; the one called `last` after all others."""
    found = sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
    )
    first = [name for name in found if name != last]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda name: upload(os.path.join(folder, name), f"{url}/{name}"), first)
        list(done)
    if last in found:
        upload(os.path.join(folder, last), f"{url}/{last}")


def download(url: str, path: str, facts: dict[str, Any] | None = None) -> None:
    """Writes an object to a local file, whole or not at all.

    It goes into a file beside it, and goes on there when it was interrupted.

    Args:
      facts: what `info` said of the object, if it was asked.

    Raises:
      OSError: it cannot be read, changes meanwhile, or the disk is full.
    """
    facts = facts or info(url)
    size, before = int(facts["size"]), version(facts)
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.{_mark(url, facts)}.partial")
    with open(partial, "ab") as out, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        starts = iter(range(out.tell(), size, BLOCK))
        waiting: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
        while True:
            while len(waiting) < AT_ONCE and (start := next(starts, None)) is not None:
                waiting.append(pool.submit(read, url, start, min(start + BLOCK, size)))
            if not waiting:
                break
            out.write(waiting.popleft().result())
        out.flush()
        os.fsync(out.fileno())
    if os.path.getsize(partial) != size or version(info(url)) != before:
        os.remove(partial)
        raise OSError(errno.EIO, "was changed while it was read", url)
    os.replace(partial, path)


def _mark(url: str, facts: dict[str, Any]) -> str:
    """Of one version of an object."""
    said = f"{url} {version(facts)} {int(facts['size'])}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------- cache


def cache_folder(*parts: str) -> str:
    """A folder for copies of objects: below $QOQ_CACHE, or $XDG_CACHE_HOME/qoq_jax (~/.cache).

    Folders that it makes are the user's alone (0700): copies may hold patients' data.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = os.environ.get("QOQ_CACHE") or os.path.join(home, "qoq_jax")
    folder = os.path.join(root, *parts)
    missing = []
    while folder and not os.path.isdir(folder):  # makedirs gives its mode to the last one only
        missing.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one, 0o700)
    return os.path.realpath(os.path.join(root, *parts))


def local_folder(url: str) -> str:
    """Where `local` puts the objects of a folder: neighbours stay neighbours."""
    url = url.rstrip("/")
    folder = cache_folder("objects", hashlib.sha256(url.encode()).hexdigest()[:16])
    errors.is_copy(folder, url)
    return folder


def local(url: str) -> str:
    """The path of a local copy of an object, fetched once per machine and version of the object.

    Processes of a machine wait for the one that fetches. The copy holds while the store gives the
    same size and version for the object, and the copy has not been written to.

    Raises:
      OSError: the object cannot be read, or the disk is full.
    """
    parent, _, name = url.rpartition("/")
    path = os.path.join(local_folder(parent), name)
    note = os.path.join(os.path.dirname(path), f".{name}.object")
    facts = info(url)
    wanted = {"url": url, "size": int(facts["size"]), "version": version(facts)}
    with _alone(f"{note}.lock"):
        if _noted(note) != wanted | {"copy": _stamp(path)}:
            for partial in glob.glob(f"{glob.escape(note.removesuffix('object'))}*.partial"):
                if _mark(url, facts) not in partial:  # of a version that is gone
                    os.remove(partial)
            download(url, path, facts)
            with open(note, "w", encoding="utf-8") as file:
                json.dump(wanted | {"copy": _stamp(path)}, file)
    return path


@contextlib.contextmanager
def _alone(lock: str) -> Iterator[None]:
    with open(lock, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of this machine: that is what the cache is of
        yield


def _noted(note: str) -> dict[str, Any] | None:
    try:
        with open(note, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
