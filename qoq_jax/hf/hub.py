"""From a name to a local directory."""

from __future__ import annotations

import fnmatch
import os
import re

from qoq_jax.base import objects, storage
from qoq_jax.base.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# What a checkpoint is made of. No pickles, no Python: nothing of a download is ever executed.
_DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja"]


def resolve(name_or_dir: str) -> str:
    """A local directory: the one given, or that of a hub id ("Qwen/Qwen2.5-VL-7B-Instruct") or of a
    URL (gs://, s3://), downloaded or cached.

    Raises:
      CheckpointError: no such directory, or the download failed.
    """
    if storage.is_url(name_or_dir):
        return _copied(name_or_dir.rstrip("/"))
    if os.path.isdir(name_or_dir):
        return os.path.abspath(name_or_dir)
    if not _HUB_ID.fullmatch(name_or_dir):
        raise CheckpointError(
            "no such directory",
            where=name_or_dir,
            hint="give a directory or a hub id like OWNER/NAME",
        )
    import huggingface_hub  # slow to import, and of no use for local directories

    try:
        return huggingface_hub.snapshot_download(name_or_dir, allow_patterns=_DOWNLOADED)
    # hub errors and those of its HTTP client derive from these
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_downloaded(name_or_dir, error) from error
    except Exception as error:
        # httpx errors derive from Exception itself; httpx is a dependency of the hub client, not of
        # this package.
        if type(error).__module__.partition(".")[0] not in (
            "httpx",
            "httpcore",
            "requests",
            "huggingface_hub",
        ):
            raise
        raise _not_downloaded(name_or_dir, error) from error


def _copied(url: str) -> str:
    """A folder of this machine with the files of a model that is at a URL.

    Weights are copied, not read in ranges: the loader asks for a tensor more than once, and a
    restart finds the copy.
    """

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in _DOWNLOADED)

    try:
        names = [name for name in storage.names(url) if wanted(name)]
        if not names:
            raise CheckpointError(
                "no model there", where=url, hint="give the URL of a folder with config.json"
            )
        folder = objects.local_folder(url)
        for name in os.listdir(folder):
            if wanted(name) and name not in names:  # of an earlier model at this URL
                os.remove(os.path.join(folder, name))
        for name in names:
            storage.local(f"{url}/{name}")
    except OSError as error:
        raise CheckpointError(
            f"cannot be copied to this machine ({error.strerror})",
            where=str(error.filename or url),
            hint="check the URL and your rights; QOQ_CACHE says where copies go",
        ) from error
    return folder


def _not_downloaded(name: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"no such directory here, and not downloaded from the hub ({reason})",
        where=name,
        hint="check the name and the network, or give a directory",
    )
