"""Names of ECG leads as recorders, data bases and standards write them, and the choice of the leads
that are needed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from qoq_jax.base.errors import DataError

NEEDED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # III, aVR, aVL, aVF follow from I and II
STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# In a name that is split at blanks and punctuation, each of these words is the lead:
# D1, DI (French, Spanish, Portuguese recorders), MLII (modified limb leads of Holters), C1 (IEC).
_WORD = re.compile(
    r"(?:lead|ecg|ekg)?(?:"
    r"(?:d|l|ml)?(?P<limb>i{1,3})|(?:d|l|lead|ml)(?P<digit>[1-3])|(?P<augmented>av[rlf])"
    r"|(?:d|ml)?v(?P<chest>[1-6])|c(?P<iec>[1-6]))"
)
# Words that make another lead of it: posterior and right-sided leads, reversed polarity, Frank's.
_OTHER = {"right", "posterior", "inverted", "inverse", "negative", "neg", "minus", "reversed"}
# The same leads by number in ISO/IEEE 11073-10101 (MDC, "2:1") and SCP-ECG ("5.6.3-9-1").
_CODE = re.compile(r"(?:2:|5\.6\.3-9-)(\d{1,2})")
_BY_CODE = dict(enumerate(NEEDED, start=1)) | dict(
    enumerate(("III", "aVR", "aVL", "aVF"), start=61)
)


def standard_name(name: str) -> str | None:
    """The standard name of a lead, or None when the name is of none or of several.

    "Lead II", "ECG I", "D1", "MLII", "V1-REF", "AVR", "MDC_ECG_LEAD_V1", "Lead I (Einthoven)" and
    "2:1" (MDC) are known. "V4R", "-aVR", "Vx" and "I-II" are no standard leads.
    """
    name = unicodedata.normalize("NFKC", name).strip().casefold()
    if code := _CODE.fullmatch(name):
        return _BY_CODE.get(int(code[1]))
    if name.startswith(("-", "\u2212")):
        return None
    name = re.sub(r"\b(lead|v|c|av) (?=[1-6rlf]\b)", r"\1", name)  # "V 1", "aV R", "Lead 1"
    words = re.split(r"[^0-9a-z]+", name)
    found = {_of_word(match) for word in words if (match := _WORD.fullmatch(word))}
    return found.pop() if len(found) == 1 and not _OTHER.intersection(words) else None


def _of_word(match: re.Match[str]) -> str:
    if match["limb"]:
        return match["limb"].upper()
    if match["digit"]:
        return "I" * int(match["digit"])
    if match["augmented"]:
        return "aV" + match["augmented"][2].upper()
    return "V" + (match["chest"] or match["iec"])


def choose(signal: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    """The needed leads [8, n], in order, out of a recording [leads, n].

    Of two signals for a lead, the one whose name is the plain standard name counts, or the first
    when they are the same.

    Raises:
      DataError: a lead is not there, or two signals could be it. Names that are no standard leads
        are counted and not shown, since free text of a header may identify a patient.
    """
    known = [standard_name(name) for name in names]
    missing = [lead for lead in NEEDED if lead not in known]
    if missing:
        present = [lead for lead in STANDARD if lead in known]
        others = known.count(None)
        found = ", ".join(present) or "no standard lead"
        raise DataError(
            f"lacks lead {', '.join(missing)}; found {found}"
            + (f" and {others} under other names" if others else ""),
            where=where,
            hint="12-lead (or I, II, V1-V6) ECGs only",
        )
    rows = []
    for lead in NEEDED:
        places = [i for i, other in enumerate(known) if other == lead]
        plain = [i for i in places if names[i].strip().casefold() == lead.casefold()]
        places = plain or places
        if any(not np.array_equal(signal[i], signal[places[0]], equal_nan=True) for i in places):
            raise DataError(
                f"has {len(places)} different signals that could be lead {lead}",
                where=where,
                hint=f"name one of them {lead} and the others differently",
            )
        rows.append(places[0])
    return signal[rows]
