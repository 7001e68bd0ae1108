"""safetensors files: headers checked before anything is read, tensors read and written one at a
time.

The format is a little-endian uint64 N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then
the data. It is read here, not through the safetensors package, because a tensor is mapped only
while it is copied (a map of the whole file would count the whole file as host memory), bfloat16
needs no torch, and a file can be written tensor by tensor.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from qoq_jax.base.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Types that are read, and then made into one of the above.
_READ_DTYPES = DTYPES | {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the safetensors package
_AGAIN = "fetch the file again"


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """One tensor of a safetensors file.

    Attributes:
      path: the file. name: the tensor's name in it.
      dtype_name: as in the header. shape: likewise.
      offset: of the first byte, from the start of the file. size: in bytes.
    """

    path: str
    name: str
    dtype_name: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def dtype(self) -> np.dtype | None:
        """None for a type that is not read."""
        return _READ_DTYPES.get(self.dtype_name)

    def map(self) -> np.ndarray:
        """The tensor as a read-only view of the file, mapped for as long as the view lives."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        return np.memmap(
            self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape or (1,)
        ).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class MadeTensor:
    """A tensor that is computed from tensors of files each time it is asked for.

    Attributes:
      name: of the tensor in whose place it stands. shape: its shape.
      dtype_name: the type that it counts as.
      make: gives the values, in that type or in float32.
    """

    name: str
    dtype_name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def dtype(self) -> np.dtype | None:
        """None for a type that is not read."""
        return _READ_DTYPES.get(self.dtype_name)

    def map(self) -> np.ndarray:
        """The values, as `TensorFile.map` gives them."""
        return self.make()


def header(path: str) -> dict[str, TensorFile]:
    """The tensors of a file by name.

    Raises:
      CheckpointError: not a safetensors file, or its length is not what its header declares.
    """
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if length < 8 or size > min(_MAX_HEADER, length - 8):
                what = f"truncated or no safetensors file: {length} bytes, a header of {size}"
                raise CheckpointError(what, where=path, hint=_AGAIN)
            entries = json.loads(file.read(size))
        start = 8 + size
        tensors, end = {}, 0
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            tensor = TensorFile(path, name, entry["dtype"], shape, start + first, last - first)
            expected = (
                last - first if tensor.dtype is None else math.prod(shape) * tensor.dtype.itemsize
            )
            if not 0 <= first <= last or min(shape, default=0) < 0 or expected != last - first:
                raise ValueError(f"tensor {name} has shape {shape} and bytes {first} to {last}")
            tensors[name], end = tensor, max(end, last)
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror})", where=path, hint=_AGAIN
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"damaged safetensors header ({error})", where=path, hint=_AGAIN
        ) from error
    if start + end != length:
        raise CheckpointError(
            f"the header declares {start + end} bytes, the file has {length}",
            where=path,
            hint=_AGAIN,
        )
    return tensors


def open_directory(directory: str) -> dict[str, TensorFile]:
    """The tensors of a checkpoint by name, from `model.safetensors` or from the files that its
    index names.

    Raises:
      CheckpointError: no safetensors, a damaged file, or an index that does not describe its files;
        all names that do not agree are listed.
    """
    single, index = os.path.join(directory, SINGLE), os.path.join(directory, INDEX)
    if os.path.exists(single):
        return header(single)
    if not os.path.exists(index):
        raise CheckpointError(
            f"neither {SINGLE} nor {INDEX} is here",
            where=directory,
            hint="give a directory with safetensors; other weight files are pickles and are not "
            "read",
        )
    try:
        with open(index, encoding="utf-8") as file:
            place = {str(name): str(shard) for name, shard in json.load(file)["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"damaged index ({error})", where=index, hint=_AGAIN) from error
    outside = sorted({shard for shard in place.values() if os.path.basename(shard) != shard})
    if outside:
        raise CheckpointError(
            f"the index names files outside the directory: {', '.join(outside)}",
            where=index,
            hint=_AGAIN,
        )
    lost = sorted(
        {shard for shard in place.values() if not os.path.exists(os.path.join(directory, shard))}
    )
    if lost:
        raise CheckpointError(
            f"files of the index are missing: {', '.join(lost)}", where=directory, hint="fetch them"
        )
    found = {shard: header(os.path.join(directory, shard)) for shard in sorted(set(place.values()))}
    wrong = [name for name, shard in place.items() if name not in found[shard]]
    wrong += [
        name for shard, tensors in found.items() for name in tensors if place.get(name) != shard
    ]
    if wrong:
        raise CheckpointError(
            f"index and files disagree about {', '.join(sorted(set(wrong)))}",
            where=index,
            hint=_AGAIN,
        )
    return {name: tensor for tensors in found.values() for name, tensor in tensors.items()}


def dtype_name(dtype: Any) -> str:
    """The header's name of a numpy dtype: F32, F16 or BF16."""
    return _NAMES[np.dtype(dtype)]


def write(
    path: str, plan: Mapping[str, tuple[str, tuple[int, ...]]], tensors: Iterable[np.ndarray]
) -> None:
    """Writes a file; holds one tensor at a time.

    Args:
      plan: {name: (header dtype, shape)} in the order in which `tensors` come.
      tensors: the arrays, made one after the other.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape) in plan.items():
        size = math.prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for (name, (dtype, shape)), tensor in zip(plan.items(), tensors, strict=True):
            if tensor.shape != shape or tensor.dtype != DTYPES[dtype]:
                raise ValueError(
                    f"{name}: {tensor.dtype}{tensor.shape} in the place of {dtype}{shape}"
                )
            # bfloat16 has no buffer protocol; its bytes do.
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)


def shard(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Names in order, in groups whose sizes sum to at most `limit` bytes; a larger tensor is a
    group of its own.
    """
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > limit:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group
