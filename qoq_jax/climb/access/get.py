"""A data set by its name: listed, chosen, downloaded, checked."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence

from qoq_jax.base import files as base_files
from qoq_jax.base import lock
from qoq_jax.base.errors import ConfigError
from qoq_jax.climb import sizes
from qoq_jax.climb.access import credentials, hosts
from qoq_jax.climb.access.access import Access, Listing, Site, safe_path
from qoq_jax.climb.access.check import counts
from qoq_jax.climb.access.client import Client, Policy, where_logins_are
from qoq_jax.climb.access.download import Downloader, free_space, needed
from qoq_jax.climb.access.errors import DownloadError, LoginError, NoFileError
from qoq_jax.climb.access.hashes import of_file
from qoq_jax.climb.access.hosts import https
from qoq_jax.climb.access.manifest import NAME, WORK, Entry, Manifest
from qoq_jax.climb.access.progress import Progress

Log = Callable[[str], None]
_SHOWN = 20


def download(
    access: Access,
    root: pathlib.Path,
    wanted: Sequence[str] = (),
    *,
    policy: Policy | None = None,
    log: Log = print,
) -> None:
    """Puts a data set, or the files of it that fit `wanted`, below a root.

    A call after an interruption continues; a call after success finds that nothing is missing.

    Args:
      wanted: patterns; () for all.
      log: takes lines.

    Raises:
      DownloadError: names the file. LoginError: the host wants a login, a signature, or rules.
      ConfigError: no such files, another data set in the folder, or another process at work in it.
    """
    if access.kind == "request":
        return _by_hand(access, root, log)
    for line in _licence(access):
        log(line)
    site = hosts.of(access).site(access)
    with Client(site, _login(access, site), policy) as client, _alone(root):
        size = 0 if wanted else access.bytes
        with Manifest(root, access) as manifest, Progress(access.name, size, log) as progress:
            listing = _list(access, client, wanted)
            if listing.note:
                log(f"{access.name}: {listing.note}")
            downloader = Downloader(client, root, manifest, progress)
            estimate = 0 if manifest else listing.total or size
            downloader.all(listing.files, estimate)
            more = listing.more(root) if listing.more else ()
            downloader.all(more)
            _write(listing, root, manifest)
            manifest.save()
        _say_what_came(access, root, manifest, log, whole=not wanted)
    return None


def dry_run(
    access: Access,
    root: pathlib.Path,
    wanted: Sequence[str] = (),
    *,
    policy: Policy | None = None,
    log: Log = print,
) -> None:
    """Says what a download would do. Asks the host for its list; writes nothing.

    Raises:
      ConfigError: no such files, or a login that cannot be read.
    """
    for line in _licence(access):
        log(line)
    free = sizes.readable(free_space(root.absolute()))
    if access.kind == "request":
        _say_steps(access, log)
        log(f"disk: {_about(access.bytes)}, {free} free at {root}")
        return
    site = hosts.of(access).site(access)
    login = credentials.first(site.places)
    for place in site.places:
        log(f"login: {place.text}")
    if site.places:
        found = f"found in {login.found}" if login else "none found"
        log(f"login: {found}; {'needed' if site.needs_login else 'not needed'}")
    else:
        log("login: not needed")
    total = access.bytes
    try:
        if site.needs_login and login is None:
            raise LoginError("no login was found", where=site.host)
        with Client(site, login, policy) as client:
            listing = _list(access, client, wanted)
    except DownloadError as error:
        log(f"files: not listed: {error}")
    else:
        for one in listing.files[:_SHOWN]:
            log(f"  {one.path}" + (f"  {sizes.readable(one.size)}" if one.size is not None else ""))
        if len(listing.files) > _SHOWN:
            log(f"  and {len(listing.files) - _SHOWN:,} more")
        estimate = listing.total or (0 if wanted else access.bytes)
        total = needed(listing.files, site.limit, estimate)
        log(f"files: {len(listing.files):,}" + (f" ({listing.note})" if listing.note else ""))
    log(f"disk: {_about(total)}, {free} free at {root}")


def _list(access: Access, client: Client, wanted: Sequence[str]) -> Listing:
    """What the host lists, and what lies elsewhere."""
    extra = https.elsewhere(access, client, wanted)
    try:
        listing = hosts.of(access).listing(access, client, wanted)
    except NoFileError:
        if not extra:
            raise
        listing = Listing(())
    listing = dataclasses.replace(listing, files=(*listing.files, *extra))
    _refuse_names(listing)
    return listing


def _about(size: int) -> str:
    return f"about {sizes.readable(size)}" if size else "the size is not known"


def _licence(access: Access) -> list[str]:
    name = " ".join(filter(None, (access.name, access.version)))
    source = f"{access.kind}, {access.source}" if access.source else access.kind
    lines = [f"{name}: {source}"]
    if access.licence:
        lines.append(f"licence: {access.licence}" + f" ({access.homepage})" * bool(access.homepage))
    return lines


def _login(access: Access, site: Site) -> credentials.Login | None:
    login = credentials.first(site.places)
    if login is None and site.needs_login:
        raise LoginError(
            f"{site.host} wants a login, and none was found",
            where=access.name,
            hint=where_logins_are(site),
        )
    return login


@contextlib.contextmanager
def _alone(root: pathlib.Path) -> Iterator[None]:
    """Inside, no other process downloads into the folder."""
    work = root / WORK
    work.mkdir(parents=True, exist_ok=True)
    try:
        with lock.hold(str(work)):
            yield
    except ConfigError as error:
        if error.where != str(work):
            raise
        raise ConfigError(
            error.what, where=str(root), hint="wait for it, or choose another root"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # parts of files are left for the next time
            work.rmdir()


def _by_hand(access: Access, root: pathlib.Path, log: Log) -> None:
    """Says what a person has to do, unless it is done."""
    for line in _licence(access):
        log(line)
    missing = list(counts(access, root)) if root.is_dir() else []
    if access.checks and root.is_dir() and not missing:
        log(f"{root}: all is there")
        return
    _say_steps(access, log)
    for line in missing[:_SHOWN]:
        log(f"missing: {line}")
    raise LoginError(
        "is given on request only, and is not complete",
        where=access.name,
        hint=f"do the steps above, then: qoq data download {access.name} --root {root} --check",
    )


def _say_steps(access: Access, log: Log) -> None:
    if access.kind == "request":
        log(f"1. Open {access.source}")
    start = 2 if access.kind == "request" else 1
    for number, step in enumerate(access.steps, start):
        log(f"{number}. {step}")


def _say_what_came(
    access: Access, root: pathlib.Path, manifest: Manifest, log: Log, *, whole: bool
) -> None:
    size = sum(one.size for one in manifest.files.values())
    log(f"{access.name}: {len(manifest.files):,} files, {sizes.readable(size)}, in {root}")
    missing = list(counts(access, root)) if whole else []
    for line in missing[:_SHOWN]:
        log(f"not complete yet: {line}")
    if missing and access.steps:
        _say_steps(access, log)


def _refuse_names(listing: Listing) -> None:
    """Paths of a host's list must stay below the root, be told apart, and not be ours."""
    seen = set()
    for path in [one.path for one in listing.files] + [*listing.texts]:
        safe = safe_path(path)
        if safe != path or path in seen or path == NAME or path.split("/")[0] == WORK:
            raise DownloadError("is a name that the host may not give to a file", where=repr(path))
        seen.add(path)


def _write(listing: Listing, root: pathlib.Path, manifest: Manifest) -> None:
    for path, content in listing.texts.items():
        base_files.write_bytes(root / path, content)
        manifest.add(path, Entry(len(content), of_file(root / path)))
