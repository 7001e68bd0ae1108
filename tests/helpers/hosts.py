"""A data set's files as its host serves them: by kind of access, on the tests' HTTP server."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping

from helpers.http_server import Server
from qoq_jax.climb.access.access import Access
from qoq_jax.climb.access.hosts import git, kaggle, physionet, tcia, zenodo

Files = Mapping[str, bytes]
_COMMIT, _TREE = "c" * 40, "d" * 40


def zipped(members: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return packed.getvalue()


def _physionet(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    login = ""
    if access.kind == "physionet-credentialed":
        login = "me:secret"
        patch.setenv("PHYSIONET_USERNAME", "me")
        patch.setenv("PHYSIONET_PASSWORD", "secret")
    patch.setattr(physionet, "BASE", server.base)
    sums = "".join(f"{hashlib.sha256(body).hexdigest()} {path}\n" for path, body in files.items())
    for path, body in {**files, "SHA256SUMS.txt": sums.encode()}.items():
        server.put(f"/files/{access.source}/{access.version}/{path}", body, login=login)
    return access


def _kaggle(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    patch.setattr(kaggle, "BASE", server.base)
    patch.setenv("KAGGLE_USERNAME", "me")
    patch.setenv("KAGGLE_KEY", "key")
    if access.kind == "kaggle-dataset":
        listing, rows = f"datasets/list/{access.source}", "datasetFiles"
        whole = f"datasets/download/{access.source}"
    else:
        listing, rows = f"competitions/data/list/{access.source}", "files"
        whole = f"competitions/data/download-all/{access.source}"
    names = [{"name": name, "totalBytes": len(body)} for name, body in files.items()]
    page = {rows: names, "nextPageToken": ""}
    login = {"login": "me:key"}
    server.put(f"/api/v1/{listing}?pageSize=200", json.dumps(page).encode(), **login)
    server.put(f"/api/v1/{whole}", zipped(files), **login)
    return access


def _tcia(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    """Files at PATIENT/STUDY/SERIES/NAME; what lies elsewhere is no part of the collection."""
    patch.setattr(tcia, "BASE", f"{server.base}/v4")
    series: dict[tuple[str, ...], dict[str, bytes]] = {}
    for path, body in files.items():
        *folder, name = path.split("/")
        series.setdefault(tuple(folder[-3:]), {})[name] = body
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    rows = [dict(zip(names, folder), Collection=access.source) for folder in series]
    server.put(f"/v4/getSeries?Collection={access.source}", json.dumps(rows).encode())
    for (_, _, uid), held in series.items():
        lines = [f'"{name}","{hashlib.md5(body).hexdigest()}"\n' for name, body in held.items()]
        sums = ('"Filename","MD5Hash"\n' + "".join(lines)).encode()
        packed = zipped({**held, "md5hashes.csv": sums})
        address = f"/v4/getImageWithMD5Hash?SeriesInstanceUID={uid}"
        server.put(address, packed, chunked=True, ranges=False, validator="")
    return access


def _zenodo(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    patch.setattr(zenodo, "BASE", server.base)
    packed = zipped(files)
    row = {"id": "1", "key": "data.zip", "size": len(packed)}
    row["checksum"] = f"md5:{hashlib.md5(packed).hexdigest()}"
    row["links"] = {"self": f"{server.base}/elsewhere"}
    page = {"id": int(access.source), "files": [row]}
    server.put(f"/api/records/{access.source}", json.dumps(page).encode())
    server.put(f"/api/records/{access.source}/files/data.zip/content", packed)
    return access


def _git(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    patch.setattr(git, "BASE", server.base)
    patch.setattr(git, "API", f"{server.base}/api")
    name = access.source.removeprefix("https://github.com/")
    rows = []
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path, body in files.items():
            info = tarfile.TarInfo(f"top/{path}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
            sha = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            rows.append(
                {"path": path, "type": "blob", "mode": "100644", "sha": sha, "size": len(body)}
            )
    commit = {"sha": _COMMIT, "commit": {"tree": {"sha": _TREE}}}
    for ref in ("HEAD", access.version):
        server.put(f"/api/repos/{name}/commits/{ref}", json.dumps(commit).encode())
    tree = {"sha": _TREE, "truncated": False, "tree": rows}
    server.put(f"/api/repos/{name}/git/trees/{_TREE}", json.dumps(tree).encode())
    address = f"/{name}/archive/{_COMMIT}.tar.gz"
    server.put(address, packed.getvalue(), chunked=True, ranges=False, validator="")
    return dataclasses.replace(access, source=f"{server.base}/{name}")


def _https(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    """Each entry of `files` is a zip of the folder of its name, or of all; or the file itself."""
    del patch
    for entry in access.files:
        if entry in files:
            server.put(f"/pub/{entry}", files[entry])
            continue
        top = entry.removesuffix(".zip") + "/"
        held = {path: body for path, body in files.items() if path.startswith(top)}
        page = server.put(f"/pub/{entry}", zipped(held or files))
        if not entry.endswith(".zip"):
            page.headers["Content-Disposition"] = 'attachment; filename="all.zip"'
    return dataclasses.replace(access, source=f"{server.base}/pub/")


_HOSTS = {
    "physionet-open": _physionet,
    "physionet-credentialed": _physionet,
    "kaggle-dataset": _kaggle,
    "kaggle-competition": _kaggle,
    "tcia": _tcia,
    "zenodo": _zenodo,
    "isic": _https,  # folders of its challenges
    "git": _git,
    "https": _https,
}


def serve(server: Server, patch: Callable, access: Access, files: Files) -> Access:
    """Puts the files of a data set onto the server as the host of its access has them; returns the
    access that leads there.

    Args:
      patch: pytest's monkeypatch.
      files: {path below the data set's folder: content}.
    """
    return _HOSTS[access.kind](server, patch, access, files)
