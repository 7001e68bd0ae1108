"""Bytes that a compiled XLA program moves, read from its optimised HLO.

Loops count as often as they run (`known_trip_count`). Collectives: bytes of their results (operands
for a reduce-scatter) on one device. Traffic: operands and results of every instruction outside of
fusions, an upper bound of what goes through HBM; compare ratios.
"""

from __future__ import annotations

import collections
import dataclasses
import re

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CALLED = re.compile(r"(?:to_apply|branch_computations)=\{?%?([\w.\-]+)")
_FUSED = re.compile(r"calls=%?([\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")
COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
# instructions that move nothing
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "while",
    "conditional",
    "call",
    "partition-id",
    "iota",
}


@dataclasses.dataclass
class Instruction:
    name: str
    kind: str
    bytes: int
    operands: list[str]
    line: str


@dataclasses.dataclass
class Traffic:
    """Bytes on one device.

    Attributes:
      collectives: {kind: bytes}.
      largest: {kind: (bytes of one, times that it runs, its operation name)}.
      hbm: operands and results.
    """

    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    largest: dict = dataclasses.field(default_factory=dict)
    hbm: float = 0.0


def size_of(text: str) -> int:
    """Bytes of all shapes in a piece of HLO."""
    total = 0
    for kind, dims in _SHAPE.findall(text):
        bits = _BITS.get(kind) or (8 if kind.startswith("f8") else int(kind[1:]))
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += count * bits // 8
    return total


def parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """({computation: instructions}, name of the entry)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        if opening := _COMPUTATION.match(line):
            current = computations.setdefault(opening[2], [])
            entry = opening[2] if opening[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            name, shape, kind, rest = found.groups()
            operands = _NAME.findall(rest.split("), ")[0])
            current.append(Instruction(name, kind, size_of(shape), operands, line))
    return computations, entry


def traffic(hlo: str) -> Traffic:
    """What a program moves in one call."""
    computations, entry = parse(hlo)
    found = Traffic()

    def walk(name: str, times: int, fused: bool = False) -> None:
        """`fused`: of the computation only collectives are counted."""
        sizes = {one.name: one.bytes for one in computations[name]}
        for one in computations[name]:
            kind = one.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                # an asynchronous one returns its operands beside its results
                operands = sum(sizes.get(name, 0) for name in one.operands)
                moved = one.bytes - operands if one.kind.endswith("-start") else one.bytes
                moved = operands if kind == "reduce-scatter" else moved
                found.collectives[kind] += moved * times
                before = found.largest.get(kind, (0, 0, ""))
                if moved * times > before[0] * before[1]:
                    where = re.search(r'op_name="([^"]*)"', one.line)
                    found.largest[kind] = (moved, times, where[1] if where else "")
            if one.kind == "while":
                trips = _TRIPS.search(one.line)
                walk(_BODY.search(one.line)[1], times * (int(trips[1]) if trips else 1))
            elif one.kind in ("call", "conditional"):
                for called in _CALLED.findall(one.line):
                    walk(called, times)
            elif fused_name := _FUSED.search(one.line):  # TPU fuses collectives with products
                walk(fused_name[1], times, fused=True)
            if not fused and one.kind not in _FREE and not one.kind.endswith("-done"):
                operands = sum(sizes.get(name, 0) for name in one.operands)
                found.hbm += (one.bytes + operands) * times

    walk(entry, 1)
    return found
