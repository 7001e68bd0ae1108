"""Is what lies in a folder complete? Against all that is known of it, without the network.

- manifest.json of a download: each file's size and SHA-256;
- SHA256SUMS.txt of PhysioNet, which a copy made by other means has too;
- the checks of the catalogue: patterns, and how many files fit each at least.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

from qoq_jax.base import terminal
from qoq_jax.base.errors import DataError
from qoq_jax.climb.access import hashes
from qoq_jax.climb.access.access import Access, matches, safe_path
from qoq_jax.climb.access.hosts import physionet
from qoq_jax.climb.access.manifest import NAME, Manifest

_SHOWN = 10


def check(access: Access, root: pathlib.Path, log: Callable[[str], None] = print) -> None:
    """Says what is missing or damaged.

    Args:
      log: takes lines.

    Raises:
      DataError: something is, or there is nothing to check against.
    """
    if not root.is_dir():
        raise DataError("no such folder", where=str(root))
    known = 0
    problems: list[str] = []
    for name, expected in _lists(access, root):
        known += len(expected)
        problems += [f"{path}: {what} ({name})" for path, what in _compare(root, expected)]
    found = list(counts(access, root))
    problems += found
    if not known and not access.checks:
        raise DataError(
            "there is nothing to check against",
            where=access.name,
            hint="the download itself takes over files that are right",
        )
    for line in problems[:_SHOWN]:
        log(line)
    if problems:
        more = len(problems) - _SHOWN
        raise DataError(
            f"{len(problems)} problems" + (f", {more} of them not shown" if more > 0 else ""),
            where=str(root),
            hint="the download fetches again what is missing"
            if access.kind != "request"
            else "see the steps: leave out --check",
        )
    log(f"{access.name}: complete: {known} files by hash, {len(access.checks)} patterns by count")


def counts(access: Access, root: pathlib.Path) -> Iterator[str]:
    """The checks of the catalogue that a folder does not pass."""
    for one in access.checks:
        least = 1 if one.count is None else one.count
        found = sum(1 for path in root.glob(one.path) if path.is_file())
        if found < least:
            yield f"{one.path}: {found:,} of {least:,} files"


def _lists(access: Access, root: pathlib.Path) -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """The lists in the folder: size (-1: not said) and SHA-256 by path."""
    manifest = Manifest(root, access)
    listed = {path: (one.size, one.hashes["sha256"]) for path, one in manifest.files.items()}
    if listed:
        yield NAME, listed
    sums = root / physionet.SUMS
    if access.kind.startswith("physionet") and sums.is_file():
        from_host = physionet.parse_sums(sums.read_bytes())
        yield (
            sums.name,
            {
                path: (-1, digest)
                for path, digest in from_host.items()
                if path not in listed and safe_path(path) and matches(path, access.patterns)
            },
        )


def _compare(root: pathlib.Path, expected: dict[str, tuple[int, str]]) -> Iterator[tuple[str, str]]:
    """Paths that are not as they should be, and why."""
    with terminal.Bar("checking files", len(expected)) as bar:
        for number, (path, (size, digest)) in enumerate(expected.items()):
            bar.update(number)
            file = root / path
            if not file.is_file():
                yield path, "is missing"
            elif size >= 0 and file.stat().st_size != size:
                yield path, f"has {file.stat().st_size} bytes, not {size}"
            elif hashes.of_file(file)["sha256"] != digest:
                yield path, "has another SHA-256"
