"""Files at any address, as the catalogue names them."""

from __future__ import annotations

import email.message
import re
from collections.abc import Sequence
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access import hashes
from qoq_jax.climb.access.access import Access, File, Listing, Site, matches, select
from qoq_jax.climb.access.archives import destination, foreign_note
from qoq_jax.climb.access.client import Client

_DIGEST = re.compile(r"(sha256|md5)=([0-9a-fA-F]+)")


def site(access: Access) -> Site:
    hint = f"look at {access.homepage or access.source} whether it has moved"
    return Site(urlsplit(access.source).netloc, limit=2, hints={403: hint, 404: hint})


def listing(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    names = access.files
    if not names:
        if not wanted:
            raise ConfigError(
                f"is more than anyone downloads at once ({access.source})",
                where=access.name,
                hint="name files below that address with --files",
            )
        names, wanted = tuple(wanted), ()
    files = [file_at(access, client, name) for name in names if matches(name, wanted)]
    if not files:
        select(access, [urldefrag(name).url for name in names], wanted)
    return Listing(tuple(files), note=foreign_note(files))


def elsewhere(access: Access, client: Client, wanted: Sequence[str]) -> tuple[File, ...]:
    """The files of a data set that do not lie at its host, but at addresses of their own."""
    if access.kind == "https" or (not access.source.isdigit() and access.kind == "isic"):
        return ()
    names = {name: urlsplit(name).path.rpartition("/")[2] for name in access.elsewhere}
    return tuple(file_at(access, client, one) for one in names if matches(names[one], wanted))


def file_at(access: Access, client: Client, name: str) -> File:
    """A file with the size that its server says, and its name where the address has none."""
    address, fragment = urldefrag(name)
    url = urljoin(access.source, address)
    match = _DIGEST.fullmatch(fragment)
    size, served = _ask(client, url, address)
    path = unquote(urlsplit(address).path).rpartition("/")[2] if "://" in address else address
    if served and "." not in path.rpartition("/")[2]:
        path = served
    return File(
        path,
        url,
        size=size,
        digest=hashes.digest(match[1], match[2]) if match else "",
        unpack=destination(path),
    )


def _ask(client: Client, url: str, what: str) -> tuple[int | None, str]:
    """Size and name of a file by the headers of its response, whose body is not read."""

    def one() -> tuple[int | None, str]:
        with client.open(url, what) as response:
            length = response.headers.get("Content-Length", "")
            header = email.message.Message()
            header["Content-Disposition"] = response.headers.get("Content-Disposition", "")
            name = header.get_filename() or ""
            return int(length) if length.isdigit() else None, name.replace("\\", "/").split("/")[-1]

    return client.attempts(what, one, lambda: 0)
