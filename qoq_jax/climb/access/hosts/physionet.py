"""PhysioNet: a project is a folder of files with SHA256SUMS.txt at its top.

https://physionet.org/files/PROJECT/VERSION/PATH. All of it is also one zip, much faster for many
small files, as of ECGs; its members are compared with the same sums.

Credentialed projects take HTTP basic authentication from programs on a list only, by their
User-Agent: wget and the WFDB library (MIT-LCP/physionet-build, project/utility.py). It asks others
to send a name of their own, so that it can be added, and so we do. Until ours is on the list they
refuse it, and the error gives their own wget command; `--check` then does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from qoq_jax.climb.access import credentials
from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import DownloadError, LoginError

BASE = "https://physionet.org"
SUMS = "SHA256SUMS.txt"
_MANY = 1000  # files from which on the zip is taken
_LARGEST_ZIP = 50 * 10**9  # bytes; it lies beside what comes out of it
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *]?(.+)")


def site(access: Access) -> Site:
    host = urlsplit(BASE).netloc
    closed = access.kind == "physionet-credentialed"
    page = f"{BASE}/content/{access.source}/{access.version}/"
    by_hand = (
        "wget -r -N -c -np -nH --cut-dirs=3 -P DIR --user NAME --ask-password "
        f"{BASE}/files/{access.source}/{access.version}/"
    )
    hints = {
        401: f"check user name and password at {BASE}/login/",
        403: f"sign the data use agreement at the foot of {page}; if it is signed, PhysioNet does "
        f"not take passwords from this program yet: {by_hand}, then use --check",
        404: f"look at {page} for the versions that there are",
    }
    places = (
        credentials.environment(host, "PHYSIONET_USERNAME", "PHYSIONET_PASSWORD"),
        credentials.netrc_entry(host),
    )
    return Site(
        host,
        places if closed else (),
        needs_login=closed,
        limit=4,
        hints=hints,
    )


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    folder = f"{BASE}/files/{access.source}/{access.version}"
    body, _ = client.text(f"{folder}/{SUMS}", SUMS)
    sums = parse_sums(body)
    if not sums:
        raise DownloadError("is no list of SHA-256 sums", where=SUMS)
    texts = {SUMS: body}
    if not wanted and not access.patterns and len(sums) > _MANY:
        name = f"{access.source}-{access.version}.zip"
        url = f"{BASE}/content/{access.source}/get-zip/{access.version}/"
        size = _zip_size(client, url, name)
        if size is not None and size <= _LARGEST_ZIP:
            members = {path: f"sha256:{digest}" for path, digest in sums.items()}
            whole = File(name, url, size=size, unpack="", strip=1, members=members)
            return Listing((whole,), texts=texts, note=f"{len(sums):,} files in one zip")
    kept = select(access, list(sums), wanted)
    listed = tuple(
        File(path, f"{folder}/{quote(path)}", digest=f"sha256:{sums[path]}")
        for path in sums
        if path in kept
    )
    return Listing(listed, texts=texts)


def _zip_size(client: Client, url: str, name: str) -> int | None:
    """Bytes of the zip of a project; None when there is none."""

    def one() -> int | None:
        with client.open(url, name) as response:
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdigit() else None

    try:
        return client.attempts(name, one, lambda: 0)
    except LoginError:
        raise
    except DownloadError:
        return None


def parse_sums(body: bytes) -> dict[str, str]:
    """SHA-256 by path, of a file as sha256sum writes it; lines of another form are left out."""
    found = {}
    for line in body.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line.strip())
        if match:
            found[match[2].removeprefix("./")] = match[1].lower()
    return found
