"""What shows that the files of a checkpoint are those that were written.

Orbax reads many a flipped bit without a word. So the SHA-256 of every file is written into the
folder before the commit (sha256.json). The files that Orbax writes at the commit itself come later;
when it is over, seal.txt gets their hashes, that of sha256.json, and its own. A process that is
killed in between leaves a checkpoint without a seal, which counts, as those of older versions do.
"""

from __future__ import annotations

import hashlib
import json
import os

from qoq_jax.base import exit_codes, files, objects, storage
from qoq_jax.base.errors import CheckpointError, QoqError, RetryError
from qoq_jax.parallel import hosts, leaving

CHECKSUMS = "sha256.json"
SEAL = "seal.txt"
COMMIT = "commit_success.txt"  # Orbax's mark of a checkpoint
# What is not in sha256.json: itself, and what Orbax writes at the commit.
AT_COMMIT = (CHECKSUMS, "_CHECKPOINT_METADATA", COMMIT)
_HASH = 64  # characters of a SHA-256


def digests(folder: str, at_commit: bool = False) -> dict[str, str]:
    """What a change of a file of a checkpoint shows in, by relative path.

    Of a local file its SHA-256. Of an object the size and checksum that the store has computed of
    what arrived: nothing is read back, and the store itself watches over the bytes.

    Args:
      at_commit: of the files that Orbax writes at the commit and of sha256.json; else of all
        others.
    """

    def is_asked(name: str) -> bool:
        name = os.path.basename(name)
        return name != SEAL and (name in AT_COMMIT) == at_commit

    if storage.is_url(folder):
        return {
            name: f"{facts['size']} {facts.get('crc32c') or objects.version(facts)}"
            for name, facts in sorted(objects.tree(folder).items())
            if is_asked(name)
        }
    names = sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, names in storage.walk(folder)
        for name in names
        if is_asked(name)
    )
    return {name: files.sha256(os.path.join(folder, name)) for name in names}


def write_checksums(folder: str) -> None:
    """Writes what a change of any file shows in, {path in it: SHA-256}, to its sha256.json."""
    sums = digests(folder)
    files.write_json(os.path.join(folder, CHECKSUMS), sums, indent=0)


def write_seal(folder: str) -> None:
    """Writes seal.txt of a committed checkpoint."""
    sums = digests(folder, at_commit=True)
    files.write_bytes(os.path.join(folder, SEAL), seal(sums))


def seal(sums: dict[str, str]) -> bytes:
    """The content of seal.txt: the SHA-256 of all that follows it, a line end, {path: digest}."""
    rest = b"\n" + json.dumps(sums, indent=0).encode()
    return hashlib.sha256(rest).hexdigest().encode() + rest


def damage(folder: str) -> str | None:
    """What is wrong with the files of a checkpoint, or None.

    Without seal.txt nothing is known of the files of the commit, without sha256.json (an older
    checkpoint) nothing at all.

    Raises:
      RetryError: the storage does not answer, so that nothing is known either.
    """
    reading = SEAL
    try:
        sealed = _sealed(folder)
        if sealed is None:
            return f"{SEAL} has changed since it was written"
        wrong = sealed and _difference(sealed, digests(folder, at_commit=True))
        if wrong:
            return wrong
        reading = CHECKSUMS
        sums = files.read_json(os.path.join(folder, CHECKSUMS), {}, error=CheckpointError)
        return _difference(sums, digests(folder)) if sums else None
    except (CheckpointError, OSError, AttributeError) as error:
        raise_what_may_pass(error, folder)
        return f"{reading} cannot be read ({type(error).__name__})"


def _sealed(folder: str) -> dict[str, str] | None:
    """What seal.txt says, {} without one, None when it is damaged."""
    try:
        content = files.read_bytes(os.path.join(folder, SEAL))
    except FileNotFoundError:
        return {}
    rest = content[_HASH:]
    if hashlib.sha256(rest).hexdigest().encode() != content[:_HASH]:
        return None
    return json.loads(rest)


def _difference(wanted: dict[str, str], found: dict[str, str]) -> str | None:
    for name, digest in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} has changed since it was written"
    return None


def raise_what_may_pass(error: Exception, where: str) -> None:
    """For whoever takes an exception of reading for a sign of damage: raises it again when it is
    none, since another process or the storage is what failed.

    Raises:
      RetryError: the storage does not answer.
    """
    if isinstance(error, QoqError) and not isinstance(error, CheckpointError):
        raise error
    if hosts.process_count() > 1 and leaving.is_lost_peer(error):
        raise error
    if exit_codes.is_transient(error):
        raise RetryError(
            f"cannot be read: {str(error).partition(chr(10))[0][:160]}",
            where=where,
            hint="start the same command again",
        ) from error
