"""Kaggle: data sets and competitions, by the web interface that its own client uses.

Its clients are not used: they unpack without limits, keep no hashes and end the process when there
is no login. A whole data set is one zip; some of its files are asked for one by one.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access import credentials
from qoq_jax.climb.access.access import Access, File, Listing, Site, select
from qoq_jax.climb.access.client import Client
from qoq_jax.climb.access.errors import moved

BASE = "https://www.kaggle.com"
_PAGE = 200  # files of a list; Kaggle's most


def site(access: Access) -> Site:
    host = urlsplit(BASE).netloc
    folder = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR") or pathlib.Path.home() / ".kaggle")
    competition = access.kind == "kaggle-competition"
    page = f"{BASE}/{'competitions' if competition else 'datasets'}/{access.source}"
    accept = (
        f"accept the rules at {page}/rules, once, with the account of the login"
        if competition
        else f"look at {page} whether your account may download it"
    )
    return Site(
        host,
        (
            credentials.environment(host, "KAGGLE_USERNAME", "KAGGLE_KEY"),
            credentials.environment_token(host, "KAGGLE_API_TOKEN"),
            credentials.kaggle_file(host),
            credentials.token_file(host, folder / "access_token"),
        ),
        needs_login=True,
        limit=2,
        hints={
            401: f"make a new key at {BASE}/settings",
            403: accept,
            404: f"look at {page} whether it still exists",
        },
    )


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    api = f"{BASE}/api/v1"
    if access.kind == "kaggle-competition":
        name = quote(access.source, safe="")
        whole = f"{api}/competitions/data/download-all/{name}"
        one, names = f"{api}/competitions/data/download/{name}", "files"
        pages, version = f"{api}/competitions/data/list/{name}", {}
    else:
        owner, _, dataset = access.source.partition("/")
        if not dataset:
            raise ConfigError(f"{access.source!r} is not OWNER/NAME", where=access.name)
        name = f"{quote(owner, safe='')}/{quote(dataset, safe='')}"
        whole = one = f"{api}/datasets/download/{name}"
        pages, names = f"{api}/datasets/list/{name}", "datasetFiles"
        version = {"datasetVersionNumber": access.version} if access.version else {}
    query = f"?{urlencode(version)}" if version else ""
    if not wanted and not access.patterns:
        archive = f"{access.source.rpartition('/')[2]}.zip"
        return Listing((File(archive, whole + query, unpack=""),))
    listed = list(_files(client, pages, names, version))
    kept = select(access, listed, wanted)
    # Slashes of a name are part of it, not of the address.
    return Listing(
        tuple(
            File(path, f"{one}/{quote(path, safe='')}{query}", zipped=True)
            for path in listed
            if path in kept
        )
    )


def _files(client: Client, url: str, names: str, version: dict[str, str]) -> Iterator[str]:
    """Names of all files, page after page. The sizes beside them are rounded."""
    token = ""
    while True:
        asked = {**version, "pageSize": str(_PAGE), **({"pageToken": token} if token else {})}
        page: Any = client.json(f"{url}?{urlencode(asked)}", "the list of files")
        rows = page.get(names) if isinstance(page, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise moved("has no files", "the list of files")
        yield from (str(row["name"]) for row in rows if row.get("name"))
        before, token = token, str(page.get("nextPageToken") or "")
        if not token or token == before:
            return
