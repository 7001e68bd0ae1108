"""Values of any range -> grey levels 0..255, by rules that look at the values only."""

from __future__ import annotations

import numpy as np

from qoq_jax.base.errors import DataError
from qoq_jax.data.readers import files

CT_WINDOW = (-160.0, 240.0)  # soft tissue, Hounsfield units
_AIR = -1024.0  # the lowest CT number of a scanner: what lies below it was not measured


def is_hounsfield(values: np.ndarray) -> bool:
    """True when the values look like CT numbers: they hold air (-500 or less) and nothing out of
    range.

    A lowest value under -1024 is colder than air can be: it is what a scanner or a converter writes
    around the picture (-2000, -3024, -32768), so the values above it are asked.
    """
    low, high = float(values.min()), float(values.max())
    if low < _AIR:
        measured = values[values > low]
        if not measured.size:
            return False
        low = float(measured.min())
    return -8192 <= low <= -500 and high <= 32767


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps [low, high] linearly to 0..255; values outside are clipped."""
    low, high = float(low), float(high)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    # float32 has 24 bits: enough unless the range is narrow beside its distance from zero.
    narrow = high - low <= max(abs(low), abs(high)) * 2**-12
    real = np.float64 if narrow or not 1e-30 < high - low < 1e30 else np.float32
    scaled = (values.astype(real) - real(low)) * real(255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def window(
    values: np.ndarray,
    percentiles: tuple[float, float] = (0.5, 99.5),
    padding: np.ndarray | None = None,
) -> np.ndarray:
    """Grey values of any range -> uint8, by one rule that looks at the values only (never at the
    row).

    CT numbers: the soft-tissue window, fixed, so that the same tissue has the same grey in all
    patients. Everything else has no unit: the 0.5th to 99.5th percentile become black and white, of
    the values above the minimum (the background of an MR volume or radiograph), or of what the
    padding leaves. A plateau that fills both percentiles is white, and what is below it black.

    Args:
      values: one whole image or volume (so that its slices are mapped alike); NaN is padding.
      padding: bool, of the shape of the values: pixels that were never measured. They take no part
        in any statistic and are black.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values if padding is None else np.where(padding, np.uint8(0), values)
    if values.dtype.kind == "f" and (empty := np.isnan(values)).any():
        padding = empty if padding is None else padding | empty
    if padding is None or not padding.any():
        return _scaled(values, percentiles, background=True)
    measured = values[~padding]
    if not measured.size:
        return np.zeros(values.shape, np.uint8)
    grey = np.zeros(values.shape, np.uint8)
    grey[~padding] = _scaled(measured, percentiles, background=False)
    return grey


def _scaled(values: np.ndarray, percentiles: tuple[float, float], background: bool) -> np.ndarray:
    """Measured values -> uint8; `background`: the lowest value takes no part in the percentiles."""
    if is_hounsfield(values):
        return to_uint8(values, *CT_WINDOW)
    lowest = values.min()
    inside = values[values > lowest] if background else values
    if not inside.size:
        return np.zeros(values.shape, np.uint8)
    # a million values give the percentile to well under one grey level
    step = max(1, inside.size // 1_000_000)
    low, high = np.percentile(inside[::step], percentiles)
    if low < high:
        return to_uint8(values, low, high)
    if lowest < high:
        return to_uint8(values, lowest, high)
    return np.full(values.shape, 255, np.uint8)  # one level inside the padding


def check_finite(values: np.ndarray, path: files.Path) -> np.ndarray:
    """The values, once something in them was measured and nothing is infinite.

    NaN is the background of many float volumes (nothing was measured there), so it passes.
    """
    if values.dtype.kind == "f" and (np.isinf(values).any() or np.isnan(values).all()):
        raise DataError(
            "has infinite values or nothing but NaN",
            where=str(path),
            hint="write it again with numbers; NaN may stand for the background only",
        )
    return values


def grey_to_rgb(values: np.ndarray) -> np.ndarray:
    """[..., h, w] -> [..., h, w, 3]."""
    return np.repeat(values[..., None], 3, axis=-1)
