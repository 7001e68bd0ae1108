"""ECGs that GE MUSE exports as XML (root element RestingECG).

Elements as the MUSE XML Developer Guide (GE Healthcare 2102027-228) names them: a Waveform of type
Rhythm holds one LeadData per lead, its samples as base64 of little-endian integers. Leads other
than those recorded (III, aVR, aVL, aVF) are not in the file. Of all elements only those below are
kept, so that nothing that names a patient is ever in memory of ours; entities are refused, and
LeadDataCRC32 is not compared, since the guide does not say over which bytes it is.
"""

from __future__ import annotations

import base64
import dataclasses
import pathlib
import xml.parsers.expat

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers.recording import Recording, millivolts

_MAX_BYTES = 64 << 20
_UNITS = {"MICROVOLTS": "uV", "MILLIVOLTS": "mV", "VOLTS": "V", "NANOVOLTS": "nV"}
_OF_WAVEFORM = ("WaveformType", "SampleBase", "SampleExponent")
_OF_LEAD = (
    "LeadID",
    "LeadAmplitudeUnitsPerBit",
    "LeadAmplitudeUnits",
    "LeadSampleSize",
    "LeadSampleCountTotal",
    "LeadOff",
    "WaveFormData",
)
_MOST_DEEP, _MOST_WAVEFORMS, _MOST_LEADS = 16, 16, 64  # exports have 3, 2 and 15
_ROOTS = tuple("<RestingECG".encode(code) for code in ("ascii", "utf-16-le", "utf-16-be"))
_HINT = "export it from MUSE again"


@dataclasses.dataclass
class _Waveform:
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    leads: list[dict[str, str]] = dataclasses.field(default_factory=list)


def is_muse(path: pathlib.Path) -> bool:
    """Whether the file is XML whose root is RestingECG."""
    with open(path, "rb") as file:
        head = file.read(4096)
    return any(root in head for root in _ROOTS)


def read(path: pathlib.Path) -> Recording:
    """The rhythm strip of an export.

    Raises:
      DataError: not XML, declares entities, is over 64 MiB, or has no sound rhythm strip.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise DataError("the XML file is over 64 MiB", where=str(path), hint=_HINT)
    waveforms = _parse(path)
    rhythms = [one for one in waveforms if one.facts.get("WaveformType", "").lower() == "rhythm"]
    if len(rhythms) != 1:
        raise DataError(f"has {len(rhythms)} rhythm strips, not one", where=str(path), hint=_HINT)
    facts, leads = rhythms[0].facts, rhythms[0].leads
    exponent = _number(facts, "SampleExponent", path, 0)
    if abs(exponent) > 9:
        raise DataError("SampleExponent is no power of a rate", where=str(path), hint=_HINT)
    rate = _number(facts, "SampleBase", path) * 10**exponent
    signals = [_signal(lead, path) for lead in leads]
    if not signals or len({len(signal) for signal in signals}) != 1 or not signals[0].size:
        lengths = sorted({len(signal) for signal in signals})
        raise DataError(f"has leads of {lengths} samples", where=str(path), hint=_HINT)
    names = [lead.get("LeadID", "") for lead in leads]
    return Recording(np.stack(signals), rate, names, signals[0].size / rate if rate else 0.0)


def _parse(path: pathlib.Path) -> list[_Waveform]:
    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    waveforms: list[_Waveform] = []
    inside: list[str] = []
    text: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        inside.append(name)
        text.clear()
        if inside[1:] == ["Waveform"]:
            waveforms.append(_Waveform())
        elif inside[1:] == ["Waveform", "LeadData"]:
            waveforms[-1].leads.append({})
        leads = len(waveforms[-1].leads) if waveforms else 0
        if len(inside) > _MOST_DEEP or len(waveforms) > _MOST_WAVEFORMS or leads > _MOST_LEADS:
            raise DataError("is no ECG: it has too many parts", where=str(path), hint=_HINT)

    def end(name: str) -> None:
        if inside[1:-1] == ["Waveform"] and name in _OF_WAVEFORM:
            waveforms[-1].facts[name] = "".join(text).strip()
        elif inside[1:-1] == ["Waveform", "LeadData"] and name in _OF_LEAD:
            waveforms[-1].leads[-1][name] = "".join(text).strip()
        inside.pop()
        text.clear()

    def characters(data: str) -> None:
        if inside and inside[-1] in (*_OF_WAVEFORM, *_OF_LEAD):
            text.append(data)

    def refuse(*_: object) -> None:
        raise DataError("declares XML entities", where=str(path), hint=_HINT)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = characters, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        # Only the place: expat's message never holds the file's own text, the encoding's name may.
        line = getattr(error, "lineno", None)
        raise DataError(
            "is not well-formed XML" + (f" (line {line})" if line else ""),
            where=str(path),
            hint=_HINT,
        ) from None
    return waveforms


def _number(facts: dict[str, str], name: str, path: pathlib.Path, default: float = np.nan) -> float:
    try:
        value = float(facts.get(name, default))
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or abs(value) > 1e6:
        raise DataError(f"{name} is missing or no number", where=str(path), hint=_HINT)
    return value


def _signal(lead: dict[str, str], path: pathlib.Path) -> np.ndarray:
    """float64 [n] in mV."""
    size = _number(lead, "LeadSampleSize", path, 2)
    scale = millivolts(_UNITS.get(lead.get("LeadAmplitudeUnits", ""), ""))
    if size != 2 or scale is None:
        what = "samples that are not of 2 bytes" if size != 2 else "leads without a known unit"
        raise DataError(f"has {what}", where=str(path), hint=_HINT)
    if lead.get("LeadOff", "FALSE").upper() == "TRUE":
        raise DataError("has a lead that was off", where=str(path), hint="drop the record")
    try:
        content = base64.b64decode("".join(lead.get("WaveFormData", "").split()), validate=True)
    except ValueError:  # no base64, or no ASCII
        content = b"?"
    count = _number(lead, "LeadSampleCountTotal", path, len(content) // 2)
    if len(content) % 2 or count != len(content) // 2:
        raise DataError("has a lead whose samples are cut", where=str(path), hint=_HINT)
    return np.frombuffer(content, "<i2") * (_number(lead, "LeadAmplitudeUnitsPerBit", path) * scale)
