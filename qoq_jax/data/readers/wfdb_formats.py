"""The sample formats of WFDB signal files, by the manual page signal(5) of the WFDB library.

Each row of FORMATS: how many bytes hold n samples, and how bytes become int32 samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to write samples.

    Attributes:
      group: bytes and samples that are written together: (3, 2) is two samples in three bytes.
      tail: bytes that 0, 1, ... left-over samples take at the end of a file.
      decode: uint8 [k * group bytes] -> int32 [k * group samples].
      missing: the sample value that means "no sample", None: there is none.
    """

    group: tuple[int, int]
    tail: tuple[int, ...]
    decode: Callable[[np.ndarray], np.ndarray]
    missing: int | None

    def bytes_for(self, samples: int) -> int:
        """The bytes that so many samples take."""
        return samples // self.group[1] * self.group[0] + self.tail[samples % self.group[1]]

    def samples_in(self, size: int) -> int:
        """The samples that so many bytes hold."""
        left = sum(size % self.group[0] >= tail for tail in self.tail[1:])
        return size // self.group[0] * self.group[1] + left

    def read(self, data: np.ndarray, samples: int) -> np.ndarray:
        """The first samples, int32, of uint8 data that hold them."""
        groups = -(-samples // self.group[1])
        padded = np.zeros(groups * self.group[0], np.uint8)
        padded[: data.size] = data[: padded.size]
        return self.decode(padded)[:samples]


def _plain(layout: str, zero: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    def decode(data: np.ndarray) -> np.ndarray:
        return (data.view(layout).astype(np.int64) - zero).astype(np.int32)

    return decode


def _signed(values: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement of the lowest bits."""
    values = values & ((1 << bits) - 1)
    return np.where(values >> (bits - 1), values - (1 << bits), values).astype(np.int32)


def _24(data: np.ndarray) -> np.ndarray:
    low, middle, high = data.reshape(-1, 3).astype(np.int32).T
    return _signed(low | middle << 8 | high << 16, 24)


def _212(data: np.ndarray) -> np.ndarray:
    """Two 12-bit samples in three bytes; the middle one holds the high four bits of both."""
    low, middle, high = data.reshape(-1, 3).astype(np.int32).T
    first, second = low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4
    return _signed(np.stack([first, second], axis=1).reshape(-1), 12)


def _310(data: np.ndarray) -> np.ndarray:
    """Three 10-bit samples in two 16-bit words, which have two of them above their lowest bit and
    the third in their five high bits.
    """
    one, two = data.view("<u2").reshape(-1, 2).astype(np.int32).T
    third = one >> 11 | (two >> 11) << 5
    return _signed(np.stack([one >> 1, two >> 1, third], axis=1).reshape(-1), 10)


def _311(data: np.ndarray) -> np.ndarray:
    """Three 10-bit samples in the low bits of a 32-bit word, the first lowest."""
    word = data.view("<u4").astype(np.int64)
    return _signed(np.stack([word, word >> 10, word >> 20], axis=1).reshape(-1), 10)


FORMATS = {
    8: Format((1, 1), (0,), _plain("<i1"), None),  # differences of successive samples
    16: Format((2, 1), (0,), _plain("<i2"), -(1 << 15)),
    24: Format((3, 1), (0,), _24, -(1 << 23)),
    32: Format((4, 1), (0,), _plain("<i4"), -(1 << 31)),
    61: Format((2, 1), (0,), _plain(">i2"), -(1 << 15)),
    80: Format((1, 1), (0,), _plain("u1", 128), -128),
    160: Format((2, 1), (0,), _plain("<u2", 1 << 15), -(1 << 15)),
    212: Format((3, 2), (0, 2), _212, -(1 << 11)),
    310: Format((4, 3), (0, 2, 4), _310, -(1 << 9)),
    311: Format((4, 3), (0, 2, 3), _311, -(1 << 9)),
}
DIFFERENCES = 8
