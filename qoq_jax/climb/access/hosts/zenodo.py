"""Zenodo: the files of a record, with their MD5 (https://developers.zenodo.org/#records)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from qoq_jax.climb.access import hashes
from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.archives import destination, foreign_note
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import DownloadError

BASE = "https://zenodo.org"


def site(access: Access) -> Site:
    page = f"{BASE}/records/{access.source}"
    hints = {
        403: f"its files are restricted: ask for access at {page}",
        404: f"look at {page} whether it still exists",
    }
    return Site(urlsplit(BASE).netloc, limit=2, hints=hints)


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    what = "the record"
    record = client.json(f"{BASE}/api/records/{quote(access.source, safe='')}", what)
    try:
        found = {
            row["key"]: File(
                row["key"],
                f"{BASE}/api/records/{quote(access.source, safe='')}/files/"
                f"{quote(row['key'], safe='')}/content",
                size=int(row["size"]),
                digest=hashes.digest(*row["checksum"].partition(":")[::2]),
                unpack=destination(row["key"]),
            )
            for row in record["files"]
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DownloadError(
            "lists no files", where=what, hint="they are restricted, or the interface has moved"
        ) from None
    kept = select(access, list(found), wanted)
    listed = tuple(file for path, file in found.items() if path in kept)
    return Listing(listed, note=foreign_note(listed))
