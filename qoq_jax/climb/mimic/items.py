"""The measurements that a record tells: laboratory tests and vital signs by their item numbers.

Item numbers, and the ranges outside of which a vital sign is a mistake of charting, are those of
the concepts of MIT-LCP/mimic-code (mimic-iv/concepts/measurement: chemistry, complete_blood_count,
bg, enzyme, coagulation, cardiac_marker, vitalsign, gcs). What is not listed here never becomes an
input: codes of orders and of goals of care ("Code Status") would tell the outcome.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

LABS, CHART = "hosp/labevents", "icu/chartevents"


@dataclasses.dataclass(frozen=True)
class Item:
    """One measurement.

    Attributes:
      name: in the text of a record.
      unit: in the text, "" for a number without one.
      table: LABS or CHART.
      ids: item numbers that are this measurement.
      units: spellings of the unit in the tables, in lower case; others are left out, not converted.
      low, high: plausible values lie between them, in `unit`; both bounds are outside.
    """

    name: str
    unit: str
    table: str
    ids: tuple[int, ...]
    units: tuple[str, ...]
    low: float
    high: float


def _lab(name: str, unit: str, number: int, high: float, *spellings: str, low: float = 0) -> Item:
    return Item(name, unit, LABS, (number,), (unit.lower(), *spellings), low, high)


def _vital(name: str, unit: str, ids: tuple[int, ...], high: float, *spellings: str) -> Item:
    return Item(name, unit, CHART, ids, (unit.lower(), *spellings), 0, high)


#: Temperature is charted in Fahrenheit (223761) or Celsius (223762); records have Celsius.
FAHRENHEIT = 223761

ITEMS = (
    _vital("heart rate", "/min", (220045,), 300, "bpm"),
    _vital("systolic pressure", "mmHg", (220179, 220050, 225309), 400),
    _vital("diastolic pressure", "mmHg", (220180, 220051, 225310), 300),
    _vital("mean pressure", "mmHg", (220181, 220052, 225312), 300),
    _vital("respiratory rate", "/min", (220210, 224690), 70, "insp/min"),
    Item("temperature", "C", CHART, (FAHRENHEIT, 223762), ("°f", "°c", "f", "c"), 10, 50),
    _vital("oxygen saturation", "%", (220277,), 100.5),
    _vital("GCS eye", "", (220739,), 4.5),
    _vital("GCS verbal", "", (223900,), 5.5),
    _vital("GCS motor", "", (223901,), 6.5),
    _lab("lactate", "mmol/L", 50813, 100),
    _lab("pH", "", 50820, 8, "units", low=6),
    _lab("pCO2", "mmHg", 50818, 300, "mm hg"),
    _lab("pO2", "mmHg", 50821, 800, "mm hg"),
    _lab("sodium", "mEq/L", 50983, 200),
    _lab("potassium", "mEq/L", 50971, 30),
    _lab("chloride", "mEq/L", 50902, 200),
    _lab("bicarbonate", "mEq/L", 50882, 100),
    _lab("anion gap", "mEq/L", 50868, 100, low=-20),
    _lab("urea nitrogen", "mg/dL", 51006, 300),
    _lab("creatinine", "mg/dL", 50912, 150),
    _lab("glucose", "mg/dL", 50931, 10000),
    _lab("calcium", "mg/dL", 50893, 50),
    _lab("albumin", "g/dL", 50862, 10),
    _lab("bilirubin", "mg/dL", 50885, 150),
    _lab("ALT", "IU/L", 50861, 50000),
    _lab("AST", "IU/L", 50878, 50000),
    _lab("hemoglobin", "g/dL", 51222, 50),
    _lab("white cells", "K/uL", 51301, 1000),
    _lab("platelets", "K/uL", 51265, 10000),
    _lab("INR", "", 51237, 50),
    _lab("troponin T", "ng/mL", 51003, 100),
    _lab("NT-proBNP", "pg/mL", 50963, 1000000),
)
BY_NAME = {item.name: item for item in ITEMS}


@functools.cache
def by_number(table: str) -> dict[str, int]:
    """{item number as the table writes it: place in ITEMS} of a table."""
    return {
        str(number): place
        for place, item in enumerate(ITEMS)
        if item.table == table
        for number in item.ids
    }


def reading(item: Item, number: str, cell: str, unit: str) -> tuple[float, str]:
    """(value in the item's unit, "") of a line, or (NaN, why it is none).

    Args:
      item: what is measured. number: its item number in the line.
      cell: valuenum. unit: valueuom; chart items without one are taken in the unit of their number.
    """
    unit = unit.strip().lower()
    if unit not in item.units and not (item.table == CHART and not unit):
        return math.nan, "in another unit"
    try:
        value = float(cell)
    except ValueError:
        return math.nan, "not a number"
    if number == str(FAHRENHEIT):
        value = (value - 32) / 1.8
    if not item.low < value < item.high:
        return math.nan, "outside of the plausible range"
    return rounded(value), ""


def rounded(value: float) -> float:
    """Six figures of a number in single precision: how records keep values."""
    return float(f"{np.float32(value):.6g}")
