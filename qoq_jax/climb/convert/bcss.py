"""BCSS: patches of breast cancer sections, cut from the published regions and their masks."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
from PIL import Image

from qoq_jax.base import files
from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.climb.labels.read import values
from qoq_jax.climb.qa import Question
from qoq_jax.data.readers import image as pictures

#: Pixels of a patch and of the overlap of two, as in DDVD233/CLIMB src/datasets/pathology/bcss.py.
PATCH, OVERLAP = 1024, 128
LEAST = 0.5  # of a patch that its tissue covers
CUT = "patches"
_COLUMNS = ("patch", "label")
#: Sites of the test split: https://bcsegmentation.grand-challenge.org/Baseline/
_TEST_SITES = ("OL", "LL", "E2", "EW", "GM", "S3")


def starts(length: int) -> list[int]:
    """Where patches begin along a side; the last one ends with it."""
    last = max(length - PATCH, 0)
    return sorted({*range(0, last, PATCH - OVERLAP), last})


def cut(root: str, name: str, picture: str, mask: str) -> None:
    """Writes the patches of a region, the mask of each patch's tissue, and last a table of both,
    below patches/.
    """
    shown, codes = pictures.read_image(picture), pictures.read_levels(mask)
    if shown.shape[:2] != codes.shape:
        raise DataError(
            f"has {codes.shape[1]} x {codes.shape[0]} pixels, its picture "
            f"{shown.shape[1]} x {shown.shape[0]}",
            where=mask,
            hint="download both again",
        )
    lines = []
    for top in starts(codes.shape[0]):
        for left in starts(codes.shape[1]):
            where = (slice(top, top + PATCH), slice(left, left + PATCH))
            tissue = codes[where]
            counts = {int(code): int((tissue == int(code)).sum()) for code in values("bcss")}
            code = max(counts, key=lambda one: (counts[one], -one))
            patch = f"{CUT}/{name}/{left:05d}_{top:05d}"
            if counts[code] < LEAST * tissue.size:
                lines.append((patch, ""))
                continue
            lines.append((patch, values("bcss")[str(code)]))
            _save(os.path.join(root, f"{patch}.png"), shown[where])
            region = np.where(tissue == code, np.uint8(255), np.uint8(0))
            _save(os.path.join(root, f"{patch}_mask.png"), region)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *lines])
    files.write_text(os.path.join(root, CUT, f"{name}.csv"), text.getvalue())


def _save(path: str, pixels: np.ndarray) -> None:
    with files.replacing(path) as partial:
        Image.fromarray(pixels).save(partial, "PNG")


def records(folder: Folder) -> Records:
    """Regions; the test split is that of the authors' baseline."""
    masks = {path.rpartition("/")[2]: path for path in folder.match("masks/*.png", "*/masks/*.png")}
    # Of several pictures of one name the last.
    regions = {
        path.rpartition("/")[2]: path
        for path in folder.match("images/TCGA-*.png", "*/images/TCGA-*.png")
    }
    if not regions:
        raise DataError(
            "images/TCGA-*.png is not there",
            where=folder.root,
            hint="put the regions into images/ and masks/: qoq data download bcss says how",
        )
    for name, picture in regions.items():
        # TCGA-A1-A0SK-DX1_xmin45749_...: project, site, patient
        yield Record(
            id=name.removesuffix(".png"),
            patient="-".join(name.split("-")[:3]),
            split="test" if name.split("-")[1] in _TEST_SITES else "train",
            facts={"picture": picture, "mask": masks.get(name)},
        )


def examples(record: Record, folder: Folder) -> Found:
    """One question per patch, half of which or more is one of the four tissues. A region is cut
    when its table is not there or older than the region or its mask.
    """
    name, picture, mask = record.id, record.facts["picture"], record.facts["mask"]
    if mask is None:
        yield Dropped(name, "its mask is not there")
        return
    table = f"{CUT}/{name}.csv"
    places = [folder.medium(path) for path in (picture, mask)]
    if not folder.is_cut([table], picture, mask):
        cut(folder.root, name, *places)
    for row in folder.read_table(table, *_COLUMNS):
        identity = row["patch"].removeprefix(f"{CUT}/")
        if not row["label"]:
            yield Dropped(identity, "none of the four tissues covers half of it")
            continue
        yield Example(
            id=identity,
            labels=(row["label"],),
            patient=record.patient,
            split=record.split,
            images=(f"{row['patch']}.png",),
            mask=f"{row['patch']}_mask.png",
        )


CONVERTERS = (
    Converter(
        "bcss",
        Question("a patch of a breast cancer section of a patient", "the main tissue"),
        records,
        examples,
        at_once=1,
    ),
)
