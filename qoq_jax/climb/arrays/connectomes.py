"""Brain networks as dense matrices: ABIDE, PPMI, ABCD as the authors of BrainGB prepare them.
Layouts: docs/datasets/brain_network.md.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.climb.arrays import text
from qoq_jax.climb.arrays.record import Array, Item, Reader, Record, label_of
from qoq_jax.climb.convert.example import Dropped
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.data.readers import files, matlab

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
    import scipy.io  # scipy comes with jax

    path = os.path.join(folder.root, folder.one("*PPMI.mat"))
    with files.decoding(files.check_file(path), "a MATLAB file"):
        matlab.check_inflated(files.check_file(path))
        held = scipy.io.loadmat(path, variable_names=["X", "label"])
    for name in ("X", "label"):
        if name not in held:
            raise DataError(f"has no array {name}", where=path)
    cells = text.as_formed(held["X"].reshape(-1), (None,), "O", f"{path}: X")
    labels = text.as_formed(held["label"].reshape(-1), (len(cells),), _NUMPY, f"{path}: label")
    shape = (PPMI_REGIONS, PPMI_REGIONS, PPMI_VIEWS)
    for i, (cell, label) in enumerate(zip(cells, labels.tolist())):
        networks = text.as_formed(cell, shape, _NUMPY, f"{path}: X, row {i + 1}")
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
    reader = csv.DictReader(text.lines(path))
    if not {"id", "sex"} <= set(reader.fieldnames or ()):
        raise DataError("has no columns id and sex", where=path)
    return {(row["id"] or "").strip(): (row["sex"] or "").strip() for row in reader}


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
