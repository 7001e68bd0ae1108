"""CT-ICH from version 1.1 on: slices of head CTs in the brain window, cut from the published NIfTI
volumes as version 1.0.0 published them as pictures.

A line of hemorrhage_diagnosis_raw_ct.csv belongs to a slice by its place among the lines of its
patient, in the order of the stored array, as in the authors' split_raw_data.py.
"""

from __future__ import annotations

import os
import pathlib
from collections import defaultdict

import numpy as np
from PIL import Image

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.convert.example import Dropped, Example, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, whole
from qoq_jax.climb.labels.read import value
from qoq_jax.data.readers import grey, nifti

TABLE = "*hemorrhage_diagnosis_raw_ct.csv"
CUT = "slices"


def is_raw(folder: Folder) -> bool:
    """Whether the folder holds the volumes, not the pictures of version 1.0.0."""
    return bool(folder.match(TABLE))


def records(folder: Folder) -> Records:
    """Scans, with the lines of their slices in the order of the table."""
    base = folder.parent(TABLE)
    lines = defaultdict(list)
    for row in folder.table(TABLE, "PatientNumber", "SliceNumber", "No_Hemorrhage"):
        line = whole(row, "SliceNumber"), value("hemorrhage", whole(row, "No_Hemorrhage"))
        lines[f"{whole(row, 'PatientNumber'):03d}"].append(line)
    for patient, slices in lines.items():
        facts = {
            "scan": f"{base}ct_scans/{patient}.nii",
            "mask": f"{base}masks/{patient}.nii",
            "slices": slices,
        }
        yield Record(id=patient, patient=patient, facts=facts)


def cut(patient: str, numbers: list[int], scan: str, mask: str, folder: Folder) -> None:
    """Writes the slices of a scan as slices/049/14.png, and beside it 14_mask.png where the mask
    has a hemorrhage. A scan whose slices are all there and newer than it, and one of which the
    table has another number of slices, is passed over.
    """
    where = [folder.medium(path) for path in (scan, mask)]
    pictures = [_picture(patient, number) for number in numbers]
    sources = [path for path in (scan, mask) if folder.has(path)]
    if folder.is_cut(pictures, *sources):
        return
    if mask not in sources:
        raise DataError("is not there", where=where[1], hint="unpack masks/ too")
    _cut_scan(folder.root, patient, numbers, *where)


def _picture(patient: str, number: int) -> str:
    return f"{CUT}/{patient}/{number}.png"


def _cut_scan(root: str, patient: str, numbers: list[int], scan: str, mask: str) -> None:
    values, to_lps = nifti.read_nifti(scan)
    region, _ = nifti.read_nifti(mask)
    if region.shape != values.shape:
        raise DataError(
            f"has the shape {region.shape}, its scan {values.shape}",
            where=mask,
            hint="download both again",
        )
    if len(numbers) != values.shape[2]:
        for number in numbers:  # of an earlier scan
            pathlib.Path(root, _picture(patient, number)).unlink(missing_ok=True)
        return
    brain = table.find("hemorrhage").windows[0]
    low, high = brain.level - brain.width / 2, brain.level + brain.width / 2
    values = np.nan_to_num(grey.check_finite(values, scan), nan=low)
    shown = nifti.axial(grey.to_uint8(values, low, high), to_lps)
    # The arrays belong together voxel by voxel, whatever orientation the mask's header says.
    bleeding = nifti.axial(np.rint(region) != 0, to_lps)
    places = np.arange(values.shape[2], dtype=np.uint16)
    stored = nifti.axial(np.broadcast_to(places, values.shape), to_lps)
    if (stored != stored[:, :1, :1]).any():
        raise DataError(
            "its third axis does not run along the patient", where=scan, hint="download it again"
        )
    for place, picture, area in zip(stored[:, 0, 0], shown, bleeding, strict=True):
        path = os.path.join(root, _picture(patient, numbers[place]))
        if area.any():  # before the picture, which says that both are there
            _save(_mask(path), np.where(area, np.uint8(255), np.uint8(0)))
        else:  # of an earlier scan
            pathlib.Path(_mask(path)).unlink(missing_ok=True)
        _save(path, picture)


def _mask(picture: str) -> str:
    return f"{picture.removesuffix('.png')}_mask.png"


def _save(path: str, pixels: np.ndarray) -> None:
    with files.replacing(path) as partial:
        Image.fromarray(pixels).save(partial, "PNG")


def examples(record: Record, folder: Folder) -> Found:
    """One question per slice, with the mask of the hemorrhage where there is one."""
    patient, facts = record.id, record.facts
    there = folder.has(facts["scan"])
    if there:
        numbers = [slice_number for slice_number, _ in facts["slices"]]
        cut(patient, numbers, facts["scan"], facts["mask"], folder)
    for slice_number, label in facts["slices"]:
        identity, picture = f"{patient}-{slice_number}", _picture(patient, slice_number)
        if not there:
            yield Dropped(identity, "its scan is not there")
        elif not folder.has(picture):
            yield Dropped(identity, "its scan has another number of slices than the table")
        else:
            bleeding = label == "Has Hemorrhage" and folder.has(_mask(picture))
            yield Example(
                id=identity,
                labels=(label,),
                patient=record.patient,
                images=(picture,),
                mask=_mask(picture) if bleeding else None,
            )
