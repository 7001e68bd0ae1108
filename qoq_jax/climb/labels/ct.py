"""Labels of CT sets that need several columns."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qoq_jax.base.errors import DataError

RSPECT = ("No PE", "Chronic PE", "Acute PE")
INSPECT = (
    "No PE",
    "Acute Subsegmental-only PE",
    "Acute PE",
    "Subsegmental-only PE",
    "Chronic PE",
)
LNDB = ("nodule >= 3 mm", "nodule < 3 mm", "non-nodule")
_TRUE = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def rspect(row: Mapping[str, str | int]) -> tuple[str, ...]:
    """The label of one slice of RSPECT's train.csv.

    Without an embolism on the image "No PE"; else what the exam says: chronic_pe "Chronic PE",
    acute_and_chronic_pe both, neither "Acute PE". The released code calls the mixed ones acute.
    """
    if not _flag(row, "pe_present_on_image"):
        return ("No PE",)
    if _flag(row, "acute_and_chronic_pe"):
        return ("Chronic PE", "Acute PE")
    return ("Chronic PE",) if _flag(row, "chronic_pe") else ("Acute PE",)


def inspect(row: Mapping[str, str | int]) -> str:
    """The label of one scan of INSPECT (DDVD233/CLIMB src/datasets/ct/inspect.py)."""
    if not _flag(row, "pe_positive"):
        return "No PE"
    acute, subsegmental = _flag(row, "pe_acute"), _flag(row, "pe_subsegmentalonly")
    if acute:
        return "Acute Subsegmental-only PE" if subsegmental else "Acute PE"
    return "Subsegmental-only PE" if subsegmental else "Chronic PE"


def lndb(nodule: int, volume: float) -> str:
    """The label of one finding of LNDb's trainNodules.csv.

    Args:
      nodule: column Nodule, 1 or 0.
      volume: column Volume, mm^3; the diameter is that of the sphere.
    """
    if nodule not in (0, 1):
        raise DataError(f"{nodule!r} is none of 0 and 1", where="Nodule")
    if not nodule:
        return "non-nodule"
    if not (math.isfinite(volume) and volume >= 0):
        raise DataError(f"{volume!r} is no volume", where="Volume")
    # 2 (3 V / 4 pi)^(1/3); 3 mm are 14.137 mm^3
    diameter = 2 * (3 * volume / (4 * math.pi)) ** (1 / 3)
    return "nodule >= 3 mm" if diameter >= 3 else "nodule < 3 mm"


def _flag(row: Mapping[str, str | int], name: str) -> bool:
    if name not in row:
        raise DataError("the column is missing", where=name)
    text = str(row[name]).strip().lower()
    if text not in _TRUE:
        raise DataError(f"{text[:20]!r} is none of 0 and 1", where=name)
    return _TRUE[text]
