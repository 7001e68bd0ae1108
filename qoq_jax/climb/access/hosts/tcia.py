"""The Cancer Imaging Archive: the series of a collection, each a zip with the MD5 of its images.

The NBIA interface, https://wiki.cancerimagingarchive.net/x/ZoATBg. Series are put where its own
program puts them, COLLECTION/PATIENT/STUDY/SERIES/, with metadata.csv at the top. Its Python client
needs pandas, plotly and 20 others for two requests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from qoq_jax.climb.access.access import Access, File, Listing, Site, safe_path, select
from qoq_jax.climb.access.client import Client, parsed
from qoq_jax.climb.access.errors import DownloadError, moved

BASE = "https://nbia.cancerimagingarchive.net/nbia-api/services/v4"
SUMS = "md5hashes.csv"
METADATA = "metadata.csv"
# Columns as the NBIA Data Retriever writes them, by the names of the interface.
_COLUMNS = {
    "Series UID": "SeriesInstanceUID",
    "Collection": "Collection",
    "Subject ID": "PatientID",
    "Study UID": "StudyInstanceUID",
    "Study Date": "StudyDate",
    "Series Description": "SeriesDescription",
    "Manufacturer": "Manufacturer",
    "Modality": "Modality",
    "Number of Images": "ImageCount",
    "File Size": "FileSize",
}


def site(access: Access) -> Site:
    hint = "look at https://www.cancerimagingarchive.net/browse-collections/ for its name"
    return Site(urlsplit(BASE).netloc, limit=4, hints={404: hint})


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    what = "the list of series"
    query = urlencode({"Collection": access.source})
    body, _ = client.text(f"{BASE}/getSeries?{query}", what)
    rows: Any = parsed(body, what) if body.strip() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise moved("is no list", what)
    if not rows:
        raise DownloadError(
            f"the archive has no collection {access.source!r}",
            where=access.name,
            hint="it may have moved to restricted access",
        )
    folders = {_folder(access, row): row for row in rows}
    kept = select(access, list(folders), wanted)
    chosen = {folder: row for folder, row in folders.items() if folder in kept}
    listed = tuple(
        File(
            f"{folder}.zip",
            f"{BASE}/getImageWithMD5Hash?SeriesInstanceUID={quote(str(row['SeriesInstanceUID']))}",
            unpack=folder,
            sums=SUMS,
        )
        for folder, row in chosen.items()
    )
    return Listing(listed, texts={METADATA: _table(folders)}, total=_bytes(chosen))


def _folder(access: Access, row: Mapping[str, Any]) -> str:
    try:
        parts = [access.source, row["PatientID"], row["StudyInstanceUID"], row["SeriesInstanceUID"]]
    except KeyError as error:
        raise moved(f"lacks {error}", "the list of series") from None
    path = safe_path("/".join(str(part).replace("/", "_") for part in parts))
    if path is None or path.count("/") != len(parts) - 1:
        raise DownloadError(f"names {parts[1:]!r}", where="the list of series")
    return path


def _bytes(rows: Mapping[str, Mapping[str, Any]]) -> int:
    """Of the images; the zips are about as large."""
    sizes = [str(row.get("FileSize", "")) for row in rows.values()]
    return sum(map(int, sizes)) if all(size.isdigit() for size in sizes) else 0


def _table(rows: Mapping[str, Mapping[str, Any]]) -> bytes:
    """metadata.csv: for each series of the collection where it lies, if it was wanted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, "File Location"])
    for folder in sorted(rows):
        values = [rows[folder].get(name) for name in _COLUMNS.values()]
        writer.writerow([*("" if one is None else one for one in values), f"./{folder}"])
    return text.getvalue().encode()
