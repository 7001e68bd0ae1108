"""Zip and tar archives from elsewhere, unpacked so that they can do no harm.

Names must stay below the folder; links out of it, devices and passwords are refused; sizes are
counted as they are written, not as they are declared; macOS's own files are left out. A member that
is an archive is unpacked in its place, once.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import functools
import hashlib
import io
import lzma
import os
import pathlib
import shutil
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Protocol

from qoq_jax.climb.access import hashes
from qoq_jax.climb.access.access import File, safe_path
from qoq_jax.climb.access.client import Stopped
from qoq_jax.climb.access.errors import ArchiveError, ByHandError, DamagedError, DigestError
from qoq_jax.climb.access.manifest import Entry

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Left to the user: no reader of these is at home here.
FOREIGN = (".rar", ".7z")
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RecursionError,
    KeyError,
    ValueError,
)
_MOST_SUMS = 64 << 20  # bytes of a list of hashes


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an archive may become.

    Attributes:
      files: members.
      ratio: bytes unpacked for each of its own; deflate ends at 1032.
      small: bytes unpacked that are never too many.
    """

    files: int = 5_000_000
    ratio: int = 200
    small: int = 1 << 30


class Unpacker:
    """Unpacks one archive below a root.

    Args:
      file: says which folder, which members, and whose digests.
      work: a folder on the same file system for what is not whole yet.
      note: takes (path below the root, Entry) of each member that is in place.
      taken: the Entry of a path that the root has already, or None.
      stop: ends it between two pieces.
    """

    def __init__(
        self,
        file: File,
        root: pathlib.Path,
        work: pathlib.Path,
        note: Callable[[str, Entry], None],
        *,
        taken: Callable[[str], Entry | None] = lambda _: None,
        stop: threading.Event | None = None,
        limits: Limits | None = None,
    ):
        self._file, self._root, self._work = file, root, work
        self._note, self._taken = note, taken
        self._stop, self._limits = stop or threading.Event(), limits or Limits()
        self._count = self._bytes = 0
        self._most = 0
        self._done: set[str] = set()

    def run(self, archive: pathlib.Path) -> None:
        """Puts all members in place.

        Raises:
          ArchiveError: it is damaged, or over a limit, or would write where it should not.
          DigestError: a member is not what the host's list says.
        """
        size = archive.stat().st_size
        self._most = max(self._limits.small, self._limits.ratio * size)
        self._unpack(archive, self._file.path, self._file.unpack or "", self._file.strip)
        missing = sorted(set(self._file.members or ()) - self._done)
        if missing:
            raise self._error(f"lacks {missing[0]}")

    def _unpack(
        self, archive: pathlib.Path, name: str, folder: str, strip: int, *, nested: bool = False
    ) -> None:
        inner: list[tuple[pathlib.Path, str]] = []
        try:
            with _opened(archive, name) as packed:
                sums = {} if nested else self._sums(packed)
                for member in packed.members():
                    path = self._path(member, folder, strip)
                    if path is None:
                        continue
                    whole = self._file.members is None and not nested
                    if whole and path.lower().endswith(ENDINGS):
                        held = self._work / f"{short_name(path)}.inner"
                        self._write(member, held)
                        inner.append((held, path))
                    else:
                        self._place(member, path, sums.get(member.name, ""))
                for piece in packed.rest():
                    self._counted(piece)
        except DAMAGED as error:
            raise self._damaged(error) from None
        except OSError as error:
            # gzip and bz2 have no errno, and zipfile seeks to where a damaged table says.
            if error.errno in (None, errno.EINVAL):
                raise self._damaged(error) from None
            raise
        except NotImplementedError:
            raise self._by_hand("is packed by a method that Python does not know") from None
        except RuntimeError:  # of zipfile
            raise self._by_hand("needs a password") from None
        for held, path in inner:
            self._unpack(held, path, path.rpartition("/")[0], 0, nested=True)
            held.unlink()

    def _path(self, member: _Member, folder: str, strip: int) -> str | None:
        """Where a member belongs below the root; None for what is left out."""
        safe, members = safe_path(member.name), self._file.members
        parts = (safe or "").split("/")
        path = "/".join(([folder] if folder else []) + parts[strip:])
        if members is not None and (safe is None or path not in members):
            return None
        if safe is None or member.link:
            why = "would be written elsewhere" if safe is None else "is a link or device"
            raise self._error(f"holds {member.name[:200]!r}, which {why}")
        junk = "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")
        if len(parts) <= strip or (junk and members is None):
            return None
        self._count += 1
        if self._count > self._limits.files:
            raise self._error(f"holds over {self._limits.files} files")
        return path

    def _sums(self, packed: _Packed) -> Mapping[str, str]:
        """MD5 by member, of the member that lists them: lines of NAME,MD5."""
        if not self._file.sums:
            return {}
        lists = [one for one in packed.members() if one.name == self._file.sums]
        if not lists or lists[0].size > _MOST_SUMS:  # the host writes it last
            raise DamagedError(f"lacks {self._file.sums}", where=self._file.path)
        with lists[0].open() as source:
            lines = csv.reader(io.StringIO(source.read(_MOST_SUMS).decode("utf-8", "replace")))
            # Written as a number, without the zeros at its beginning.
            found = {
                line[0].strip(): hashes.digest("md5", line[1].strip().zfill(32))
                for line in lines
                if line[1:]
            }
        for one in packed.members():
            if one.name != self._file.sums and one.name not in found:
                raise self._error(f"holds {one.name}, which its {self._file.sums} does not list")
        return found

    def _place(self, member: _Member, path: str, digest: str) -> None:
        digest = digest or (self._file.members or {}).get(path, "")
        partial = self._work / f"{short_name(self._file.path)}.member"
        entry = self._write(member, partial, digest)
        algorithm, _, expected = digest.partition(":")
        found = entry.hashes.get(algorithm)
        if expected and found != expected:
            raise DigestError(
                f"{algorithm.upper()} is {found}, the host's list says {expected}",
                where=f"{self._file.path}: {path}",
                hint="start again; report it to the host if it stays so",
            )
        before = self._taken(path)
        other = before is not None and before.archive not in ("", self._file.path)
        if other and before.hashes["sha256"] != entry.hashes["sha256"]:
            raise self._error(f"holds another {path} than {before.archive}")
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, target)
        self._done.add(path)
        self._note(path, entry)

    def _write(self, member: _Member, to: pathlib.Path, digest: str = "") -> Entry:
        """Copies a member and counts its bytes."""
        hasher, size = hashes.Hasher(digest, member.size), 0
        with member.open() as source, open(to, "wb") as target:
            while piece := source.read(1 << 20):
                size += len(piece)
                hasher.update(self._counted(piece))
                target.write(piece)
        return Entry(size, hasher.hex(), self._file.path)

    def _counted(self, piece: bytes) -> bytes:
        if self._stop.is_set():
            raise Stopped
        self._bytes += len(piece)
        if self._bytes > self._most:
            raise self._error(
                f"becomes over {self._most >> 20} MiB, {self._limits.ratio} times its size"
            )
        return piece

    def _error(self, what: str) -> ArchiveError:
        return ArchiveError(f"the archive {what}", where=self._file.path, hint="do not use it")

    def _damaged(self, error: Exception) -> DamagedError:
        what = f"the archive is damaged ({type(error).__name__})"
        return DamagedError(what, where=self._file.path, hint="start again")

    def _by_hand(self, what: str) -> ByHandError:
        hint = "it is kept: unpack it by hand (7z x), then use --check"
        return ByHandError(f"the archive {what}", where=self._file.path, hint=hint)


def destination(path: str) -> str | None:
    """The folder that a host's file is unpacked to, that of the file; None for one that is kept."""
    return path.rpartition("/")[0] if path.lower().endswith(ENDINGS) else None


def foreign_note(files: Sequence[File]) -> str:
    """A line for the user about archives that are kept as they are."""
    kept = [one.path for one in files if one.path.lower().endswith(FOREIGN)]
    return f"to be unpacked by hand (7z x): {', '.join(kept)}" if kept else ""


def unpacked_size(archive: pathlib.Path) -> int | None:
    """Bytes of all members, as a zip's table says; None for others, which have none."""
    try:
        with zipfile.ZipFile(archive) as packed:
            return sum(one.file_size for one in packed.infolist())
    except (OSError, *DAMAGED):
        return None


def unwrap(path: pathlib.Path, name: str) -> bool:
    """Replaces a zip that holds one member called `name`, and nothing else, by that member.

    Returns:
      Whether it was one.
    """
    if name.lower().endswith(".zip") or not zipfile.is_zipfile(path):
        return False
    inner = path.with_suffix(".unwrapped")
    with zipfile.ZipFile(path) as packed:
        if packed.namelist() != [name]:
            return False
        limits = Limits()
        most = max(limits.small, limits.ratio * path.stat().st_size)
        if packed.getinfo(name).file_size > most:
            raise zipfile.BadZipFile
        with packed.open(name) as source, open(inner, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    os.replace(inner, path)
    return True


# ------------------------------------------------------------------------------------ zip and tar


@dataclasses.dataclass(frozen=True)
class _Member:
    """A file of an archive, or a link that is refused."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    link: bool = False


class _Packed(Protocol):
    def members(self) -> Iterator[_Member]: ...

    def rest(self) -> Iterator[bytes]:
        """What comes after the members, which has to be read for a checksum at the end."""


class _Zip:
    def __init__(self, packed: zipfile.ZipFile):
        self._packed = packed

    def members(self) -> Iterator[_Member]:
        for one in self._packed.infolist():
            if not one.is_dir():
                link = stat.S_ISLNK(one.external_attr >> 16)
                opener = functools.partial(self._packed.open, one)
                yield _Member(one.filename, one.file_size, opener, link)

    def rest(self) -> Iterator[bytes]:
        return iter(())


class _Tar:
    """Links to members inside become copies of them, since not all file systems have links."""

    def __init__(self, packed: tarfile.TarFile):
        self._packed = packed

    def members(self) -> Iterator[_Member]:
        for one in self._packed:
            if one.isdir():
                continue
            try:
                tarfile.data_filter(one, "/nowhere")  # refuses devices and what leads outside
            except tarfile.FilterError:
                yield _Member(one.name, 0, io.BytesIO, link=True)
                continue
            yield _Member(one.name, one.size, functools.partial(self._open, one))

    def rest(self) -> Iterator[bytes]:
        while piece := self._packed.fileobj.read(1 << 20):
            yield piece

    def _open(self, member: tarfile.TarInfo) -> IO[bytes]:
        file = self._packed.extractfile(member)
        if file is None:
            raise tarfile.ReadError("no file")
        return file


@contextlib.contextmanager
def _opened(archive: pathlib.Path, name: str) -> Iterator[_Packed]:
    if name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            yield _Zip(packed)
    else:
        with tarfile.open(archive) as packed:
            yield _Tar(packed)


def short_name(path: str) -> str:
    """A name of fixed length for a file that stands for `path`."""
    return hashlib.sha256(path.encode()).hexdigest()[:32]
