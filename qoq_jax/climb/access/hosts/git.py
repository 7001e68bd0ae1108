"""Repositories on GitHub: the archive of one commit, checked against the hashes of its tree.

Git's own hash of each file comes from the tree of the commit, and what the archive has must agree.
Large files (Git LFS) are three lines in the repository that name a SHA-256; they are asked for by
the batch interface, https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access import credentials
from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import DownloadError, LoginError, moved

BASE = "https://github.com"
API = "https://api.github.com"
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\n"
    rb"size (\d+)\n?"
)
_POINTER_BYTES = 1024  # the most, by its specification
_FILES = ("100644", "100755")  # modes; a link is 120000, a submodule 160000
_BATCH = 100


def site(access: Access) -> Site:
    host = urlsplit(API).netloc
    hint = f"look at {access.source} whether it still exists"
    return Site(
        host,
        (credentials.environment_token(host, "GITHUB_TOKEN"),),
        limit=2,
        hints={404: hint, 422: hint},
    )


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    name = access.source.removeprefix(f"{BASE}/").removesuffix(".git").strip("/")
    if not access.source.startswith(f"{BASE}/") or name.count("/") != 1:
        raise ConfigError(
            f"{access.source} is not on a git host that is known here",
            where=access.name,
            hint="clone it by hand into the root, then use --check",
        )
    commit, tree, note = _commit(access, client, name)
    what = "the tree of the commit"
    found = client.json(f"{API}/repos/{name}/git/trees/{tree}?recursive=1", what)
    try:
        if found["truncated"]:
            raise DownloadError("has too many files", where=what, hint="clone it by hand")
        blobs = {
            row["path"]: row
            for row in found["tree"]
            if row["type"] == "blob" and row["mode"] in _FILES
        }
        kept = select(access, list(blobs), wanted)
        members = {path: f"git:{blobs[path]['sha']}" for path in blobs if path in kept}
        size = sum(int(blobs[path]["size"]) for path in members)
    except (KeyError, TypeError, ValueError):
        raise moved("lacks fields", what) from None
    archive = File(
        f"{name.rpartition('/')[2]}-{commit}.tar.gz",
        f"{BASE}/{name}/archive/{commit}.tar.gz",
        unpack="",
        strip=1,
        members=members,
    )
    pointers = [path for path in members if int(blobs[path]["size"]) <= _POINTER_BYTES]
    more = functools.partial(_large, client, f"{BASE}/{name}.git", pointers)
    return Listing((archive,), note=note, more=more, total=size)


def _commit(access: Access, client: Client, name: str) -> tuple[str, str, str]:
    """Hashes of the commit and its tree, and a line for the user.

    A version that is no branch, tag or commit is of the data, not of the repository.
    """
    what = f"commit {access.version or 'HEAD'}"
    refs = [access.version, f"v{access.version}"] if access.version else []
    for ref in (*refs, "HEAD"):
        try:
            row: Any = client.json(f"{API}/repos/{name}/commits/{quote(ref, safe='')}", what)
            commit = row["sha"]
            note = f"commit {commit}"
            if refs and ref == "HEAD":
                note += f", the newest: {access.version} is no branch or tag of {access.source}"
            return commit, row["commit"]["tree"]["sha"], note
        except (KeyError, TypeError):
            raise moved("lacks fields", what) from None
        except LoginError:
            raise
        except DownloadError:
            if ref == "HEAD":
                raise
    raise AssertionError("HEAD returns or raises")


def _large(
    client: Client, remote: str, pointers: Sequence[str], root: pathlib.Path
) -> tuple[File, ...]:
    """The files that pointers stand for, with addresses that hold for an hour or so."""
    found: dict[tuple[str, int], list[str]] = {}
    for path in pointers:
        file = root / path
        match = _POINTER.fullmatch(file.read_bytes()) if file.stat().st_size <= 1024 else None
        if match:
            found.setdefault((match[1].decode(), int(match[2])), []).append(path)
    files: list[File] = []
    keys = list(found)
    for start in range(0, len(keys), _BATCH):
        some = keys[start : start + _BATCH]
        answer = client.json(
            f"{remote}/info/lfs/objects/batch",
            "the list of large files",
            method="POST",
            headers={
                "Accept": "application/vnd.git-lfs+json",
                "Content-Type": "application/vnd.git-lfs+json",
            },
            json={
                "operation": "download",
                "transfers": ["basic"],
                "objects": [{"oid": oid, "size": size} for oid, size in some],
            },
        )
        for row in answer.get("objects", ()):
            for path in found.get((row.get("oid"), row.get("size")), ()):
                files.append(_file(path, row))
    return tuple(files)


def _file(path: str, row: dict[str, Any]) -> File:
    action = row.get("actions", {}).get("download", {})
    if "href" not in action:
        said = str(row.get("error", {}).get("message", "no address"))[:100]
        raise DownloadError(
            f"is a large file that the host does not give ({said})",
            where=path,
            hint="its owner's quota may be used up: try another day",
        )
    return File(path, action["href"], size=int(row["size"]), digest=f"sha256:{row['oid']}")
