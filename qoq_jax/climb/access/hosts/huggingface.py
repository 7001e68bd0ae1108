"""Data sets on Hugging Face: the files of a repository at one commit, with their hashes.

The list of files gives the SHA-256 of large files and the git hash of the others, so the downloader
can do the rest as everywhere: `huggingface_hub` keeps its own cache, and a second copy of a data
set is too many.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from qoq_jax.climb.access import credentials, hashes
from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.client import Client, parsed
from qoq_jax.climb.access.errors import moved

BASE = "https://huggingface.co"
_NEXT = re.compile(r'<([^>]+)>;\s*rel="?next"?')


def is_there(access: Access) -> bool:
    """Whether a git address is of this host."""
    return access.source.startswith(f"{BASE}/datasets/")


def site(access: Access) -> Site:
    host = urlsplit(BASE).netloc
    hint = f"accept its conditions at {access.source}, with the account of the token"
    token = pathlib.Path.home() / ".cache" / "huggingface" / "token"
    return Site(
        host,
        (
            credentials.environment_token(host, "HF_TOKEN"),
            credentials.token_file(host, token),
        ),
        limit=4,
        hints={401: hint, 403: hint, 404: f"look at {access.source} whether it still exists"},
    )


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    what = "the list of files"
    name = quote(access.source.removeprefix(f"{BASE}/datasets/").strip("/"))
    revision = access.version or "main"
    info = client.json(f"{BASE}/api/datasets/{name}/revision/{quote(revision, safe='')}", what)
    commit = info.get("sha") if isinstance(info, dict) else None
    if not isinstance(commit, str):
        raise moved("names no commit", what)
    found: dict[str, File] = {}
    url = f"{BASE}/api/datasets/{name}/tree/{commit}?recursive=true"
    while url:
        body, headers = client.text(url, what)
        for row in _rows(parsed(body, what), what):
            path = row["path"]
            address = f"{BASE}/datasets/{name}/resolve/{commit}/{quote(path)}"
            found[path] = File(path, address, size=int(row["size"]), digest=_digest(row))
        match = _NEXT.search(headers.get("Link", ""))
        url = match[1] if match and match[1].startswith(f"{BASE}/") else ""
    kept = select(access, list(found), wanted)
    note = f"commit {commit}"
    return Listing(tuple(one for path, one in found.items() if path in kept), note=note)


def _rows(page: Any, what: str) -> list[dict[str, Any]]:
    try:
        return [row for row in page if row["type"] == "file" and {"path", "size"} <= set(row)]
    except (TypeError, KeyError):
        raise moved("has no files", what) from None


def _digest(row: dict[str, Any]) -> str:
    large = row.get("lfs") or {}
    return hashes.digest("sha256", large.get("oid", "")) or hashes.digest("git", row.get("oid", ""))
