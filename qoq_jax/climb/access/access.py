"""Where a data set comes from, as the catalogue says it, and the files that its host lists."""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access.credentials import Place
from qoq_jax.climb.access.errors import NoFileError
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.catalogue.table import Check


@dataclasses.dataclass(frozen=True)
class Access:
    """The way to a data set: sub-table `access` of its row in the catalogue.

    Attributes:
      name: of the data set.
      kind: of the host.
      source: what the host calls it. PhysioNet: the project ("ptb-xl"). Kaggle: "OWNER/NAME" or the
        competition. TCIA: the collection. Zenodo: the number of the record. ISIC: the number of a
        collection of the archive, or the address of a folder of its challenges. git:
        "https://github.com/OWNER/NAME" or "https://huggingface.co/datasets/OWNER/NAME". https: the
        address that `files` begin from. request: the page with the form.
      version: PhysioNet: "1.0.3"; Kaggle: a number, "" for the newest; git: commit, branch or tag.
      files: which of the host's files belong to the data set, as patterns (`*` also stands for
        "/") or folders (with "/" at the end); none for all. Whole addresses (https://...) are files
        that lie elsewhere, beside the others. For https and folders of ISIC: each file, as the rest
        of its address. An address may end with "#sha256=HEX" or "#md5=HEX".
      bytes: size as a whole, for hosts that do not say it; 0 when not known.
      steps: what a person has to do, one sentence each.
      checks: what a complete folder has.
      licence, homepage: of the row itself, to show.
    """

    name: str
    kind: table.Access
    source: str = ""
    version: str = ""
    files: tuple[str, ...] = ()
    bytes: int = 0
    steps: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    licence: str = ""
    homepage: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The entries of `files` that are of the host."""
        return tuple(one for one in self.files if "://" not in one)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The entries of `files` that are addresses."""
        return tuple(one for one in self.files if "://" in one)

    def __post_init__(self) -> None:
        if any("@" in urlsplit(one).netloc for one in (self.source, *self.files)):
            raise ConfigError(
                "an address has a login in it", where=self.name, hint="put it into ~/.netrc"
            )


def access_of(name: str) -> Access:
    """The way to a data set of the catalogue.

    Raises:
      ConfigError: there is none of that name.
    """
    row = table.find(name)
    source = {
        field.name: getattr(row.access, field.name) for field in dataclasses.fields(row.access)
    }
    source["bytes"] = row.access.bytes or 0
    licence = table.licences()[row.licence].title if row.licence else ""
    return Access(name, **source, licence=licence, homepage=row.homepage)


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One file of a host.

    Attributes:
      path: where it belongs below the root, with "/"; of an archive that is unpacked, its name.
      url: where it is.
      size: in bytes, exactly; None when the host does not say.
      digest: "sha256:HEX", "md5:HEX", or "git:HEX" (SHA-1 of a git blob); "" when the host says
        none.
      unpack: the folder below the root that an archive is unpacked to ("" for the root itself),
        after which it is removed; None for a file that is kept as it is.
      strip: folders at the beginning of each name inside the archive that are left out.
      members: digests by path below the root of what is taken from the archive, and nothing else
        is; None for all, without digests.
      sums: name of a member of the archive that lists the others with their MD5.
      zipped: the host may send it inside a zip with one member of the same name.
    """

    path: str
    url: str
    size: int | None = None
    digest: str = ""
    unpack: str | None = None
    strip: int = 0
    members: Mapping[str, str] | None = None
    sums: str = ""
    zipped: bool = False


@dataclasses.dataclass(frozen=True)
class Listing:
    """What there is to download.

    Attributes:
      files: in the host's order.
      texts: small files that are written as they are, such as the host's own list of hashes.
      total: bytes in all, about, where the files do not say it; 0 when not known.
      note: a line for the user.
      more: what else is needed, by what came (Git LFS): a function of the root.
    """

    files: tuple[File, ...]
    texts: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    total: int = 0
    note: str = ""
    more: Callable[[pathlib.Path], tuple[File, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Site:
    """How to behave towards a host.

    Attributes:
      host: its name, with the port when there is one; a login is sent to no other.
      places: where a login is looked for, first found first used.
      needs_login: nothing can be had without.
      limit: files at the same time.
      hints: what to do about an HTTP status, by number.
    """

    host: str
    places: tuple[Place, ...] = ()
    needs_login: bool = False
    limit: int = 4
    hints: Mapping[int, str] = dataclasses.field(default_factory=dict)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path fits a pattern, or is in a folder, of those given; all do when none is."""
    return not patterns or any(
        fnmatch.fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)
        for pattern in patterns
    )


def select(access: Access, paths: Sequence[str], wanted: Sequence[str]) -> set[str]:
    """Those of a host's paths that belong to the data set and that the user wants.

    Raises:
      NoFileError: there are none.
    """
    kept = {one for one in paths if matches(one, access.patterns) and matches(one, wanted)}
    if kept:
        return kept
    if not paths:
        raise NoFileError("the host lists no files", where=access.name)
    raise NoFileError(
        f"no file fits {' '.join([*wanted, *access.patterns])}",
        where=access.name,
        hint=f"there are {len(paths)} files, such as {', '.join(sorted(paths)[:3])}",
    )


_BAD_NAME = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")


def safe_path(name: str) -> str | None:
    """A path from elsewhere as one that stays below a root; None when it would not."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or _BAD_NAME.search(name) or ".." in parts or not parts:
        return None
    if any(len(part.encode(errors="replace")) > 255 for part in parts):
        return None
    return "/".join(parts)
