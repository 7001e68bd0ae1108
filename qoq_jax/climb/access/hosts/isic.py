"""The ISIC archive: the images of a collection (https://api.isic-archive.com/api/docs/), or the
folder of a challenge, which is plain files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import DownloadError, moved
from qoq_jax.climb.access.hosts import https

BASE = "https://api.isic-archive.com/api/v2"
METADATA = "metadata.csv"


def site(access: Access) -> Site:
    if not access.source.isdigit():
        return https.site(access)
    hint = f"look at https://www.isic-archive.com for collection {access.source}"
    return Site(urlsplit(BASE).netloc, limit=4, hints={404: hint})


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    if not access.source.isdigit():
        return https.listing(access, client, wanted)
    images = _images(access, client)
    kept = select(access, list(images), wanted)
    chosen = {path: row for path, row in images.items() if path in kept}
    try:
        listed = tuple(
            File(path, row["files"]["full"]["url"], size=int(row["files"]["full"]["size"]))
            for path, row in chosen.items()
        )
    except (KeyError, TypeError, ValueError):
        raise moved("lacks addresses", "the list of images") from None
    return Listing(listed, texts={METADATA: _table(images.values())})


def _images(access: Access, client: Client) -> dict[str, Any]:
    """Rows of the interface by the name of their file, page after page."""
    what = "the list of images"
    url = f"{BASE}/images/search/?{urlencode({'collections': access.source, 'limit': 100})}"
    found: dict[str, Any] = {}
    while url:
        page = client.json(url, what)
        try:
            for row in page["results"]:
                ending = urlsplit(row["files"]["full"]["url"]).path.rpartition(".")[2].lower()
                found[f"{row['isic_id']}.{ending if ending.isalnum() else 'jpg'}"] = row
            url = page["next"] or ""
        except (KeyError, TypeError):
            raise moved("lacks fields", what) from None
        if url and urlsplit(url).netloc != urlsplit(BASE).netloc:
            raise DownloadError("goes on at another host", where=what)
    return found


def _table(rows: Any) -> bytes:
    """metadata.csv: all that is said of the images of the collection."""
    flat = [
        {
            "isic_id": row["isic_id"],
            "attribution": row.get("attribution", ""),
            "copyright_license": row.get("copyright_license", ""),
            **_flat(row.get("metadata") or {}),
        }
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


def _flat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of groups (acquisition, clinical) as columns."""
    flat: dict[str, Any] = {}
    for name, value in metadata.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat
