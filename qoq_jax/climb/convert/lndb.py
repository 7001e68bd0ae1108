"""LNDb: windows of 24 slices of chest CTs, cut from the published volumes."""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from qoq_jax.base import files
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, number, whole
from qoq_jax.climb.labels import ct as labels
from qoq_jax.climb.qa import Question
from qoq_jax.data.readers import grey, metaimage, nifti

#: Slices of a window, and between the first slices of two, as in DDVD233/CLIMB
#: src/datasets/ct/lndb.py.
SLICES, STRIDE = 24, 12
CUT = "windows"


def first_slices(slices: int) -> list[int]:
    """The first slice of each window; the last window ends with the volume."""
    last = max(slices - SLICES, 0)
    return sorted({*range(0, last, STRIDE), last})


def slice_of(point: Sequence[float], header: metaimage.Header) -> int:
    """The slice of a point, counted from the lowest one as `nifti.read_volume` has them.

    Args:
      point: mm, world coordinates of the volume (left, posterior, superior).
    """
    axis = _slice_axis(header)
    voxel = np.linalg.solve(header.to_lps, np.asarray(point) - header.origin)[axis]
    return round(voxel if header.to_lps[2, axis] > 0 else header.shape[axis] - 1 - voxel)


def _slice_axis(header: metaimage.Header) -> int:
    """The voxel axis that runs along the patient."""
    steps = np.linalg.norm(header.to_lps, axis=0)
    return int(np.argmax(np.abs(header.to_lps[2]) / np.maximum(steps, 1e-12)))


def cut(scan: str, voxels: str, windows: Mapping[str, int], folder: Folder) -> None:
    """Writes the windows of a scan, {path: first slice}, as uint8 frames in the lung window of the
    catalogue, when they are not all there or older than the scan.

    Args:
      scan, voxels: the header, and the file that it names.
    """
    folder.medium(voxels)
    if folder.is_cut(windows, *filter(folder.has, (scan, voxels))):
        return
    lung = table.find("lndb").windows[0]
    low, high = lung.level - lung.width / 2, lung.level + lung.width / 2
    shown = grey.to_uint8(nifti.read_volume(os.path.join(folder.root, scan)), low, high)
    for window, first in windows.items():
        _save(os.path.join(folder.root, window), shown[first : first + SLICES])


def _save(path: str, frames: np.ndarray) -> None:
    """An .npz of frames, at the fastest level of deflate: NumPy's own takes more than twice as long
    for no smaller files.
    """
    with (
        files.replacing(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        # opened by name it has a fixed date: the same frames give the same bytes
        archive.open("frames.npy", "w") as member,
    ):
        np.lib.format.write_array(member, np.ascontiguousarray(frames), allow_pickle=False)


def _windows(name: str, header: metaimage.Header) -> dict[str, int]:
    """{path of a window: its first slice}."""
    slices = header.shape[_slice_axis(header)]
    return {f"{CUT}/{name}/{first:04d}.npz": first for first in first_slices(slices)}


def records(folder: Folder) -> Records:
    """Labelled scans, with the findings of all radiologists: [x, y, z] and label."""
    scans = {
        path.rpartition("/")[2].removesuffix(".mhd"): path
        for path in folder.match("*LNDb-????.mhd")
    }
    findings = defaultdict(list)
    columns = ("LNDbID", "x", "y", "z", "Nodule", "Volume")
    for row in folder.table("*trainNodules.csv", *columns):
        label = labels.lndb(whole(row, "Nodule"), number(row, "Volume") or 0.0)
        point = [number(row, axis) for axis in "xyz"]
        if None not in point:
            findings[f"LNDb-{whole(row, 'LNDbID'):04d}"].append((point, label))
    for row in folder.table("*trainCTs.csv", "LNDbID"):
        name = f"LNDb-{whole(row, 'LNDbID'):04d}"
        facts = {"scan": scans.get(name), "findings": findings[name]}
        yield Record(id=name, patient=name, facts=facts)


def examples(record: Record, folder: Folder) -> Found:
    """One question per window: the greatest finding whose centre lies in it; "non-nodule" where
    there is none. Windows are written below windows/.
    """
    name, scan = record.id, record.facts["scan"]
    if scan is None:
        yield Dropped(name, "its scan is not there")
        return
    header = metaimage.read_header(folder.medium(scan))
    windows = _windows(name, header)
    cut(scan, posixpath.join(posixpath.dirname(scan), header.file), windows, folder)
    found = [(slice_of(point, header), label) for point, label in record.facts["findings"]]
    for window, first in windows.items():
        inside = {label for place, label in found if first <= place < first + SLICES}
        yield Example(
            id=f"{name}-{first:04d}",
            labels=(next(label for label in labels.LNDB if label in {*inside, "non-nodule"}),),
            patient=record.patient,
            videos=(window,),
        )


CONVERTERS = (
    Converter(
        "lndb",
        Question("a window of 24 slices of a chest CT of a patient", "the largest finding"),
        records,
        examples,
        at_once=1,
    ),
)
