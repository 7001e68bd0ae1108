"""Files to disk: continued where they stopped, checked, several at a time.

A file is written to WORK/HASH.part. Beside it stands what the host said of the bytes (ETag, time,
length), so that another attempt asks for the rest only if the file is still the same (If-Range);
where that cannot be known, it begins anew. When length and digest are right it is renamed into its
place and noted in the manifest, and only then does it exist for anyone else.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from qoq_jax.base import files as base_files
from qoq_jax.climb import sizes
from qoq_jax.climb.access import archives, hashes
from qoq_jax.climb.access.access import File
from qoq_jax.climb.access.archives import Unpacker
from qoq_jax.climb.access.client import Again, Client, Stopped
from qoq_jax.climb.access.errors import (
    ArchiveError,
    ByHandError,
    DamagedError,
    DigestError,
    DownloadError,
)
from qoq_jax.climb.access.manifest import WORK, Entry, Manifest
from qoq_jax.climb.access.progress import Progress

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_LARGE = 1 << 20  # bytes from which on a file is worth continuing after the end of the process
_RESERVE = 256 << 20  # bytes of the disk that are left alone


@dataclasses.dataclass
class _Part:
    """A file that is not whole yet.

    Attributes:
      path: of its bytes; note: of what the host said.
      etag, modified: validators of RFC 9110 section 8.8; "" when there is none.
      total: length of the whole file; None when not known.
      digest: that the host sends with the bytes.
      reached: the most bytes that it had, for the count of failures.
      anew: it was begun again because its bytes were wrong.
    """

    path: pathlib.Path
    note: pathlib.Path
    etag: str = ""
    modified: str = ""
    total: int | None = None
    digest: str = ""
    reached: int = 0
    anew: bool = False

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def validator(self) -> str:
        return self.etag or self.modified

    def load(self) -> None:
        told = base_files.read_json(self.note, missing={})
        for name in ("etag", "modified", "total", "digest"):
            setattr(self, name, told.get(name, getattr(self, name)))
        self.reached = self.size

    def save(self) -> None:
        if self.total is not None and self.total < _LARGE:
            return
        told = {name: getattr(self, name) for name in ("etag", "modified", "total", "digest")}
        base_files.write_json(self.note, told)

    def drop(self) -> None:
        """Forgets the bytes and what was said of them."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.etag = self.modified = self.digest = ""
        self.total = None


class Downloader:
    """Puts files of one host below a root."""

    def __init__(self, client: Client, root: pathlib.Path, manifest: Manifest, progress: Progress):
        self._client, self._root = client, root
        self._manifest, self._progress = manifest, progress
        self._work = root / WORK

    def all(self, wanted: Sequence[File], estimate: int = 0) -> None:
        """Downloads what the manifest does not have.

        The first file that fails for good ends the others where they are; they continue next time.

        Args:
          estimate: bytes in all, when the files do not say it; 0 when nobody does.

        Raises:
          DownloadError: names the file.
        """
        missing = [one for one in wanted if not self._manifest.has(one)]
        partial = sum(one.stat().st_size for one in self._work.glob("*.part"))
        space = needed(missing, self._client.site.limit, estimate)
        check_free(self._root, space - partial, str(self._root))
        self._progress.begin(wanted, missing)
        with concurrent.futures.ThreadPoolExecutor(self._client.site.limit) as pool:
            try:
                self._in_turn(pool, missing)
            except BaseException:
                self._client.stop.set()
                raise

    def _in_turn(self, pool: concurrent.futures.Executor, files: Sequence[File]) -> None:
        """A few files wait for each thread, not all of a million."""
        waiting: set[concurrent.futures.Future[None]] = set()
        for file in files:
            waiting.add(pool.submit(self._one, file))
            if len(waiting) >= 4 * self._client.site.limit:
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for one in done:
                    one.result()
        for one in concurrent.futures.as_completed(waiting):
            one.result()

    def _one(self, file: File) -> None:
        if self._client.stop.is_set():
            raise Stopped
        try:
            if not self._adopt(file):
                self._fetch(file)
        except OSError as error:
            raise DownloadError(
                f"cannot be written ({error.strerror})",
                where=file.path,
                hint="free disk space or choose another root; the same command continues",
            ) from None

    def _adopt(self, file: File) -> bool:
        """Takes over a file that the user put there, when it is known to be right."""
        target = self._root / file.path
        if file.unpack is not None or not target.is_file():
            return False
        size = target.stat().st_size
        if not (file.digest or file.size is not None) or size != (file.size or size):
            return False
        found = hashes.of_file(target, file.digest)
        algorithm, _, digest = file.digest.partition(":")
        if digest and found[algorithm] != digest:
            return False
        self._manifest.add(file.path, Entry(size, found))
        self._progress.add(size, finished=1)
        return True

    # ------------------------------------------------------------------------------------ one file

    def _fetch(self, file: File) -> None:
        name = archives.short_name(file.path)
        part = _Part(self._work / f"{name}.part", self._work / f"{name}.json")
        part.load()
        self._progress.add(part.size, fresh=False)
        entry = self._client.attempts(
            file.path, lambda: self._attempt(file, part), lambda: part.reached
        )
        if file.unpack is None:
            self._keep(file, part)
            self._manifest.add(file.path, entry)
        part.drop()
        self._progress.add(0, finished=1)

    def _keep(self, file: File, part: _Part) -> None:
        target = self._root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.size >= _LARGE:
            with open(part.path, "rb+") as written:
                os.fsync(written.fileno())
        os.replace(part.path, target)

    def _attempt(self, file: File, part: _Part) -> Entry:
        """One request; when all bytes are there, their check, and unpacking."""
        if not part.size or part.size != part.total:
            self._receive(file, part)
        try:
            entry = self._verified(file, part)
            if file.unpack is not None:
                self._unpack(file, part, entry)
            return entry
        except ByHandError:
            self._keep(file, part)
            part.drop()
            raise
        except (DigestError, ArchiveError) as error:
            self._progress.add(-part.size, fresh=False)
            part.drop()
            if part.anew or not isinstance(error, DigestError | DamagedError):
                raise
            part.anew = True
            raise Again(error.what, wait=0.0) from None

    def _receive(self, file: File, part: _Part) -> None:
        offset = part.size
        if offset and not (part.validator or file.digest):
            offset = 0  # nothing says whether the rest would be of the same file
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and part.validator:
            headers["If-Range"] = part.validator
        with self._client.open(file.url, file.path, headers) as response:
            if response.status_code == 416:
                part.drop()
                raise Again("the host has fewer bytes than came before")
            offset = self._agree(file, part, response.status_code, response.headers, offset)
            self._progress.add(offset - part.size, fresh=False)
            with open(part.path, "rb+" if part.path.exists() else "wb") as target:
                target.seek(offset)
                target.truncate()
                for piece in self._client.pieces(response, file.path):
                    target.write(piece)
                    offset += len(piece)
                    part.reached = max(part.reached, offset)
                    self._progress.add(len(piece))
        if part.total is None:
            part.total = part.size
            part.save()

    def _agree(
        self, file: File, part: _Part, status: int, headers: Mapping[str, str], offset: int
    ) -> int:
        """Where the body of a response belongs in the part; notes what the host says of it."""
        _refuse_encoding(file, headers)
        told = _told(headers, status)
        if status == 206:
            start, total = told.pop("start"), told["total"]
            same = start == offset and all(
                not before or not now or before == now
                for before, now in (
                    (part.etag, told["etag"]),
                    (part.modified, told["modified"]),
                    (part.total, total),
                )
            )
            if not same:
                part.drop()
                raise Again("the file changed at the host")
        else:
            offset = 0
        part.etag, part.modified = told["etag"], told["modified"]
        part.total, part.digest = told["total"], told["digest"] or part.digest * (status == 206)
        if part.total is not None:
            check_free(self._root, part.total - offset, file.path)
        part.save()
        return offset

    def _verified(self, file: File, part: _Part) -> Entry:
        size, digest = part.size, file.digest or part.digest
        found = hashes.of_file(part.path, digest)
        algorithm, _, expected = digest.partition(":")
        wrong = ""
        if file.size is not None and size != file.size:
            wrong = f"has {size} bytes, the host's list says {file.size}"
        elif expected and found[algorithm] != expected:
            wrong = f"{algorithm.upper()} is {found[algorithm]}, the host says {expected}"
        if wrong:
            hint = "start again later; report it to the host if it stays so"
            raise DigestError(wrong, where=file.path, hint=hint)
        if file.zipped:
            try:
                unwrapped = archives.unwrap(part.path, file.path.rpartition("/")[2])
            except archives.DAMAGED:
                raise DamagedError("came in a damaged zip", where=file.path) from None
            if unwrapped:
                size, found = part.size, hashes.of_file(part.path)
        return Entry(size, found)

    def _unpack(self, file: File, part: _Part, entry: Entry) -> None:
        check_free(self._root, archives.unpacked_size(part.path) or 0, file.path)
        unpacker = Unpacker(
            file,
            self._root,
            self._work,
            self._manifest.add,
            taken=self._manifest.files.get,
            stop=self._client.stop,
        )
        unpacker.run(part.path)
        self._manifest.add_archive(file.path, entry)


def _told(headers: Mapping[str, str], status: int) -> dict[str, Any]:
    """What a response says of the whole file, and where its body begins."""
    etag = headers.get("ETag", "")
    told: dict[str, Any] = {
        "etag": "" if etag.startswith("W/") else etag,  # a weak one does not promise equal bytes
        "modified": headers.get("Last-Modified", ""),
        "total": None,
        "digest": _google_md5(headers.get("x-goog-hash", "")),
    }
    if status == 206:
        match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        told["start"] = int(match[1]) if match else -1
        told["total"] = int(match[2]) if match and match[2] != "*" else None
    elif headers.get("Content-Length", "").isdigit():
        told["total"] = int(headers["Content-Length"])
    return told


def _google_md5(header: str) -> str:
    """The MD5 that Google Cloud Storage, and so Kaggle, sends with a file (base64)."""
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "md5":
            with contextlib.suppress(ValueError):
                return hashes.digest("md5", base64.b64decode(value, validate=True).hex())
    return ""


def _refuse_encoding(file: File, headers: Mapping[str, str]) -> None:
    """A body that was packed on the way, though we asked for it as it is.

    Some servers call a .gz file so whose bytes they send as they are.
    """
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity" and not file.path.endswith((".gz", ".tgz")):
        raise DownloadError(
            f"is sent packed ({encoding}), which was not asked for", where=file.path
        )


# ------------------------------------------------------------------------------------ disk space


def needed(files: Sequence[File], limit: int, estimate: int = 0) -> int:
    """Bytes of the disk that files take at most, archives beside what is in them.

    An archive counts as large as what is in it, and `limit` of them are there at a time. A size
    that is not known counts as 0, but all together as `estimate` at least.
    """
    held = sorted((one.size or 0 for one in files if one.unpack is not None), reverse=True)
    total = sum(one.size or 0 for one in files) + sum(held[:limit])
    return total if all(one.size is not None for one in files) else max(total, estimate)


def free_space(root: pathlib.Path) -> int:
    """Free bytes of the file system that a folder is on, or will be."""
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


def check_free(root: pathlib.Path, size: int, where: str) -> None:
    """Raises DownloadError when so many more bytes do not fit."""
    free = free_space(root)
    if size > 0 and size + _RESERVE > free:
        raise DownloadError(
            f"needs {sizes.readable(size)} of disk, {sizes.readable(free)} are free",
            where=where,
            hint="free space, choose another --root, or fewer --files",
        )
