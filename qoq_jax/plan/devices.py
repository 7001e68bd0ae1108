"""Devices and topologies, by the table of devices.json: what a device can hold, compute and move.

v5e:4x4        a TPU slice of 4 x 4 chips
2*v5e:4x4      two of them, joined by the data centre's network
h100:2x8       two nodes of 8 GPUs
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math
import re

from qoq_jax.base.errors import ConfigError, did_you_mean

_FORM = re.compile(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Device:
    """One device of JAX, a row of devices.json.

    Attributes:
      name: of the row.
      kind: "tpu" or "gpu".
      memory_gib: GiB that a program may use.
      flops: products in bfloat16, FLOP/s. hbm: bytes/s of its memory.
      link: bytes/s that it receives over one of its links (TPU), or over NVLink (GPU).
      dcn: bytes/s that it receives over the network between slices (TPU) or nodes (GPU).
      source: where the numbers are from.
      axes: dimensions of a TPU's topology; 0 for GPUs.
      wraps_at: a dimension that is a multiple of it is a ring, with a link at each end.
      per_host: chips of the largest slice that is one host, or GPUs of a node.
      per_chip: devices of a chip.
      most: chips of the largest slice; 0 for GPUs.
      slices: those for hire, the smallest first, where they are few: of two dimensions.
      small: of three dimensions, those for hire below a cube of 64 chips; larger ones are made of
        such cubes.
    """

    name: str
    kind: str
    memory_gib: float
    flops: float
    hbm: float
    link: float
    dcn: float
    source: str
    per_host: int
    axes: int = 0
    wraps_at: int = 0
    per_chip: int = 1
    most: int = 0
    slices: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    def hires(self, shape: tuple[int, ...]) -> bool:
        """Whether a slice of the shape is for hire: "AxBxC, A <= B <= C, all at most 4 or all
        multiples of 4" (cloud.google.com/tpu/docs/types-topologies).
        """
        named = self.slices or self.small
        if not named or "x".join(map(str, shape)) in named:
            return True
        cubes = all(size % 4 == 0 for size in shape) and list(shape) == sorted(shape)
        return bool(self.small) and cubes


@functools.cache
def table() -> dict[str, Device]:
    """All devices by their names."""
    text = importlib.resources.files("qoq_jax.plan").joinpath("devices.json").read_text("utf-8")
    rows = json.loads(text)
    return {
        name: Device(name, **{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for name, row in rows.items()
    }


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices and how they are joined.

    Attributes:
      device: the kind.
      shape: of chips (TPU), or (nodes, GPUs of a node).
      slices: so many of them.
    """

    device: Device
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        several = f"{self.slices}*" if self.slices > 1 else ""
        return f"{several}{self.device.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Chips (or GPUs) altogether: what is paid for."""
        return math.prod(self.shape) * self.slices

    @property
    def size(self) -> int:
        """Devices of JAX."""
        return self.chips * self.device.per_chip

    @property
    def near(self) -> int:
        """Devices that reach one another without the network: those of a slice, or of a node."""
        chips = self.shape[-1] if self.device.kind == "gpu" else math.prod(self.shape)
        return chips * self.device.per_chip

    @property
    def links(self) -> float:
        """Bytes/s that the worst placed device of a slice or a node receives from the others.

        A TPU has a link in each dimension longer than one, at the corner of the slice; two where
        the dimension is a ring.
        """
        device = self.device
        if device.kind == "gpu":
            return device.link
        # 3-dimensional slices are rings where all three are; 2-dimensional ones each by itself.
        ring = [size % device.wraps_at == 0 for size in self.shape]
        if device.axes == 3:
            ring = [all(ring)] * len(ring)
        ways = sum((2 if x else 1) for size, x in zip(self.shape, ring, strict=True) if size > 1)
        return device.link * max(ways, 1)

    def larger(self) -> Topology | None:
        """The next larger one of the kind that is for hire, of as many slices; None: there is none.

        A node is filled before a second one is taken. Slices of three dimensions have their
        shortest one doubled.
        """
        if self.device.kind == "gpu":
            nodes, gpus = self.shape
            if gpus * 2 <= self.device.per_host:
                return dataclasses.replace(self, shape=(nodes, gpus * 2))
            return dataclasses.replace(self, shape=(nodes * 2, gpus))
        if self.device.slices:
            chips = math.prod(self.shape)
            shapes = (tuple(map(int, one.split("x"))) for one in self.device.slices)
            found = (one for one in shapes if math.prod(one) > chips)
            shape = next((one for one in found if math.prod(one) % chips == 0), None)
            return shape and dataclasses.replace(self, shape=shape)
        at = self.shape.index(min(self.shape))
        shape = tuple(n * 2 if i == at else n for i, n in enumerate(self.shape))
        if math.prod(shape) > self.device.most:
            return None
        return dataclasses.replace(self, shape=tuple(sorted(shape)))


def parse(text: str) -> Topology:
    """NAME:AxB[xC] or N*NAME:AxB[xC] as a Topology; of GPUs also NAME:N, one node.

    Raises:
      ConfigError: another form, an unknown device, or a shape that it does not have.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise ConfigError(
            f"cannot read topology {text!r}", hint="write v5e:4x4, 2*v5e:4x4, v5p:2x2x4 or h100:1x8"
        )
    slices, name, shape = int(found[1] or 1), found[2], tuple(map(int, found[3].split("x")))
    if name not in table():
        raise ConfigError(f"unknown device {name!r}", hint=did_you_mean(name, table()))
    device = table()[name]
    if device.kind == "gpu":
        shape = (1, *shape) if len(shape) == 1 else shape
        if len(shape) == 2 and slices == 1 and 0 < shape[1] <= device.per_host and shape[0] > 0:
            return Topology(device, shape)
        raise ConfigError(
            f"{text!r} is no topology of {name}",
            hint=f"write {name}:NODESxGPUS, at most {device.per_host} GPUs a node",
        )
    if len(shape) != device.axes or min(*shape, slices) < 1:
        example = "x".join(["4"] * device.axes)
        raise ConfigError(
            f"{text!r} is no topology of {name}",
            hint=f"write {device.axes} sizes, {name}:{example}",
        )
    if math.prod(shape) > device.most:
        raise ConfigError(
            f"{text!r}: a slice of {name} has at most {device.most} chips",
            hint=f"join slices: 2*{name}:...",
        )
    return Topology(device, shape, slices)
