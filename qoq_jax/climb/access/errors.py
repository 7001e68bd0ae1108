"""Why a data set could not be had. Each names the file, and what the user can do."""

from __future__ import annotations

from qoq_jax.base.errors import ConfigError, DataError


class DownloadError(DataError):
    """A file that could not be had."""


class LoginError(DownloadError):
    """The host asks for an account, a signed agreement or accepted rules."""


class DigestError(DownloadError):
    """Bytes that are not those that the host's own list says."""


class ArchiveError(DownloadError):
    """An archive that would write what or where it should not."""


class DamagedError(ArchiveError):
    """An archive that cannot be read to its end."""


class ByHandError(ArchiveError):
    """An archive that needs another program or a password; it is kept."""


class NoFileError(ConfigError):
    """A choice of files that leaves none."""


def moved(what: str, where: str) -> DownloadError:
    """An answer of a host's interface that is not of the form it had."""
    return DownloadError(what, where=where, hint="the host's interface may have moved")
