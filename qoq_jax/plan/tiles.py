"""What an array takes on a TPU: its two innermost dimensions are tiles of 8 x 128 numbers of four
bytes, and the compiler puts those dimensions inside that leave least padding. Heads of 80 channels
(Qwen2.5-VL's vision tower) or 48 (ECG-JEPA) are padded whatever it does: 2 % of the state of a 7B
model on 16 chips. Seen in the arguments of compiled programs (docs/plan.md).
"""

from __future__ import annotations

import functools
import itertools
import math

LANES, ROWS = 128, 8


@functools.lru_cache(maxsize=1 << 12)
def padded(shape: tuple[int, ...]) -> int:
    """Numbers of four bytes that an array of a device takes, padding included."""
    if len(shape) < 2:
        return _up(shape[0], LANES) if shape else 1
    whole = math.prod(shape)
    return min(
        whole
        // (shape[lane] * shape[row])
        * _up(shape[lane], LANES)
        * _up(shape[row], _rows(shape[row]))
        for lane, row in itertools.permutations(range(len(shape)), 2)
    )


def _rows(size: int) -> int:
    """Rows of a tile: fewer where the dimension is small."""
    return next((rows for rows in (1, 2, 4) if size <= rows), ROWS)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
