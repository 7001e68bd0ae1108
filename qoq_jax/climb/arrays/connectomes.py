"""Brain networks as dense matrices: ABIDE, PPMI, ABCD as the authors of BrainGB prepare them.
Layouts: docs/datasets/brain_network.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import cells, text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record, label_of
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.data.readers import files

_NUMPY = "fiu"
ABIDE_REGIONS, PPMI_REGIONS, ABCD_REGIONS, PPMI_VIEWS = 200, 84, 360, 3
_TO_NPZ = (
    "a pickle runs code when it is read: where you trust it, "
    "d = np.load('abide.npy', allow_pickle=True).item(); np.savez('abide.npz', "
    "**{k: d[k] for k in ('corr', 'pcorr', 'label', 'site')})"
)


def abide(folder: Folder) -> Iterator[Item]:
    """One record per person, by row; metadata names the site."""
    if not folder.match("*abide.npz") and folder.match("*abide.npy"):
        where = os.path.join(folder.root, folder.one("*abide.npy"))
        raise DataError("is a pickle, which is not read", where=where, hint=_TO_NPZ)
    path = os.path.join(folder.root, folder.one("*abide.npz"))
    held = files.read_npz(path, "corr", "pcorr", "label", "site")
    for name in ("corr", "pcorr", "label", "site"):
        if name not in held:
            raise DataError(f"has no array {name}", where=path)
    count = len(text.as_formed(held["label"].reshape(-1), (None,), _NUMPY, path))
    shape = (count, ABIDE_REGIONS, ABIDE_REGIONS)
    correlation = text.as_formed(held["corr"], shape, "f", f"{path}: corr")
    partial = text.as_formed(held["pcorr"], shape, "f", f"{path}: pcorr")
    sites = text.as_formed(held["site"], (count,), "US", f"{path}: site")
    for i, label in enumerate(held["label"].reshape(-1).tolist()):
        labels, identity = (label_of("abide", label, path),), f"row {i}"

        def read(
            i: int = i, identity: str = identity, labels: tuple[str, ...] = labels
        ) -> Iterator[Record]:
            arrays = _graph(correlation[i], path) | {"partial": _finite(partial[i])}
            site = sites[i].decode("latin-1") if sites.dtype.kind == "S" else str(sites[i])
            yield Record(identity, identity, labels, arrays, metadata={"site": site})

        yield Item(identity, identity, read)


def ppmi(folder: Folder) -> Iterator[Item]:
    """One record per person, by row, with the networks of three tractographies."""
    path = os.path.join(folder.root, folder.one("*PPMI.mat"))
    held, labels = cells.read(path, "X", "label")
    shape = (None, PPMI_REGIONS, PPMI_REGIONS, PPMI_VIEWS)
    people = text.as_formed(held, shape, _NUMPY, f"{path}: X")
    labels = text.as_formed(labels, (len(people),), _NUMPY, f"{path}: label")
    for i, (networks, label) in enumerate(zip(people, labels.tolist())):
        identity = f"row {i}"
        named = (label_of("ppmi", label, path),)

        def read(
            identity: str = identity,
            named: tuple[str, ...] = named,
            networks: np.ndarray = networks,
        ) -> Iterator[Record]:
            yield Record(identity, identity, named, _graph(np.moveaxis(networks, 2, 0), path))

        yield Item(identity, identity, read)


def abcd(folder: Folder) -> Iterator[Item | Dropped]:
    """One record per person, matrix and sex joined by id."""
    path = os.path.join(folder.root, folder.one("*abcd_rest-pearson-HCP2016.npy"))
    listed = os.path.join(folder.root, folder.one("*ids_HCP2016.txt"))
    ids = [line.strip() for line in text.lines(listed) if line.strip()]
    networks = text.open_npy(path, (len(ids), ABCD_REGIONS, ABCD_REGIONS), "f")
    if len(set(ids)) != len(ids):
        raise DataError("names a person twice", where=listed)
    table = os.path.join(folder.root, folder.one("*id2sex.txt"))
    sexes = _sexes(table)
    for i, person in enumerate(ids):
        if person not in sexes:
            yield Dropped(person, "id2sex.txt does not have the person")
            continue
        labels = (label_of("abcd", sexes[person], table),)

        def read(
            i: int = i, person: str = person, labels: tuple[str, ...] = labels
        ) -> Iterator[Record]:
            yield Record(person, person, labels, _graph(networks[i], path))

        yield Item(person, person, read)


def _sexes(path: str) -> dict[str, str]:
    """{id: sex} of id2sex.txt, which has commas in spite of its name."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.lines(path) if line.strip()]
    header = rows[0] if rows else []
    if not {"id", "sex"} <= set(header):
        raise DataError("has no columns id and sex", where=path)
    if any(len(row) != len(header) for row in rows):
        raise DataError("has lines that are longer or shorter than its header", where=path)
    person, sex = header.index("id"), header.index("sex")
    return {row[person]: row[sex] for row in rows[1:]}


def _graph(matrix: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """adjacency [..., region, region] with 0 where no number is, and which regions have any.

    The correlation with a region without signal is no number (a NaN row and column).

    Raises:
      DataError: no region has a number.
    """
    finite = np.isfinite(matrix)
    present = finite.any(axis=tuple(range(matrix.ndim - 1)))
    if not present.any():
        raise DataError("a network has no number", where=where)
    return {"adjacency": _finite(matrix), "present": present}


def _finite(matrix: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(matrix), matrix, 0).astype(np.float32)


def _forms(regions: int, unit: str, what: str, views: tuple[int, ...] = ()) -> dict[str, Array]:
    return {
        "adjacency": Array((*views, regions, regions), "float32", unit, what),
        "present": Array((regions,), "bool", "", "whether the region has any number"),
    }


READERS = (
    Reader(
        "abide",
        _forms(ABIDE_REGIONS, "", "correlation of regions")
        | {"partial": Array((200, 200), "float32", "", "partial correlation")},
        abide,
    ),
    Reader(
        "ppmi",
        _forms(PPMI_REGIONS, "", "connections of three tractographies", (PPMI_VIEWS,)),
        ppmi,
    ),
    Reader("abcd", _forms(ABCD_REGIONS, "", "Pearson correlation of regions"), abcd),
)
