"""Bytes that a compiled XLA program moves, read from its optimised HLO.

Loops count as often as they run: `known_trip_count`, or the constant that their condition compares
with, which is all that programs of TPUs say. Collectives: bytes of their results (operands for a
reduce-scatter) on one device. Traffic: operands and results of every instruction outside of
fusions; not those in a TPU's VMEM or in the host's memory (memory spaces 1 and 5), and of a stack
that is only sliced, or written in place, the slice. An estimate of what goes through HBM: compare
ratios.
"""

from __future__ import annotations

import collections
import dataclasses
import re

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+|f8\w*)\[([\d,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BODY = re.compile(r"body=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"[su]32\[\]\S* constant\((\d+)\)")
_CALLED = re.compile(r"to_apply=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
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
    """One line; `bytes` of its result, `hbm` those of them that lie in HBM."""

    name: str
    kind: str
    bytes: int
    hbm: int
    operands: list[str]
    line: str


Computations = dict[str, list[Instruction]]


@dataclasses.dataclass
class Traffic:
    """Bytes on one device.

    Attributes:
      collectives: {kind: bytes}.
      largest: {kind: (bytes of one, times that it runs, its operation name)}.
      hbm: operands and results.
      by_operation: {operation name: its part of hbm}.
    """

    collectives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    largest: dict = dataclasses.field(default_factory=dict)
    hbm: float = 0.0
    by_operation: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add_collective(self, kind: str, size: int, operation: str, times: int = 1) -> None:
        """Counts one that runs `times` times."""
        self.collectives[kind] += size * times
        before = self.largest.get(kind, (0, 0, ""))
        if size * times >= before[0] * before[1]:
            self.largest[kind] = (size, times, operation)

    def add(self, other: Traffic, times: int = 1) -> None:
        """Adds what a part of the program moves, which runs `times` times."""
        self.hbm += other.hbm * times
        for kind, amount in other.collectives.items():
            self.collectives[kind] += amount * times
            size, ran, operation = other.largest[kind]
            before = self.largest.get(kind, (0, 0, ""))
            if size * ran * times >= before[0] * before[1]:
                self.largest[kind] = (size, ran * times, operation)
        for operation, amount in other.by_operation.items():
            self.by_operation[operation] += amount * times


def size_of(text: str) -> tuple[int, int]:
    """(bytes of all shapes in a piece of HLO, those of them in HBM)."""
    total = hbm = 0
    for kind, dims, layout in _SHAPE.findall(text):
        bits = _BITS.get(kind) or (8 if kind.startswith("f8") else int(kind[1:]))
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += count * bits // 8
        hbm += 0 if "S(1)" in layout or "S(5)" in layout else count * bits // 8
    return total, hbm


def parse(hlo: str) -> tuple[Computations, str]:
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
            current.append(Instruction(name, kind, *size_of(shape), operands, line))
    return computations, entry


def trips(loop: Instruction, computations: Computations) -> int:
    """How often a loop runs; 1 where nothing says it."""
    if known := _TRIPS.search(loop.line):
        return int(known[1])
    condition = computations[_CONDITION.search(loop.line)[1]]
    limits = [int(found[1]) for one in condition if (found := _CONSTANT.search(one.line))]
    return max(limits, default=1)


def parameters(computation: list[Instruction]) -> list[Instruction]:
    """In their order."""
    found = [one for one in computation if one.kind == "parameter"]
    return sorted(found, key=lambda one: int(re.search(r"parameter\((\d+)\)", one.line)[1]))


def part_read(
    name: str, whole: int, computation: list[Instruction], computations: Computations
) -> int:
    """Bytes of an operand that a fusion reads: of one that is only sliced the slices."""
    users = [one for one in computation if name in one.operands]
    read = 0
    for one in users:
        if one.kind in ("dynamic-slice", "slice", "gather"):
            read += one.bytes
        elif one.kind == "bitcast":
            read += part_read(one.name, whole, computation, computations)
        elif one.kind == "dynamic-update-slice" and one.operands[0] == name:
            continue  # written in place
        elif one.kind == "fusion":
            inside = computations[_FUSED.search(one.line)[1]]
            there = parameters(inside)[one.operands.index(name)].name
            read += part_read(there, whole, inside, computations)
        else:
            return whole
    return min(read, whole) if users else whole


def moved_by_fusion(
    fusion: Instruction, sizes: dict[str, Instruction], computations: Computations
) -> int:
    """Bytes of HBM that a fusion reads and writes; where it updates an operand in place, it writes
    the update.
    """
    inside = computations[_FUSED.search(fusion.line)[1]]
    by_name = {one.name: one for one in inside}
    total, result = 0, fusion.hbm
    for operand, parameter in zip(fusion.operands, parameters(inside), strict=False):
        if operand not in sizes or not sizes[operand].hbm:
            continue
        whole = sizes[operand].hbm
        total += part_read(parameter.name, whole, inside, computations)
        for one in inside:
            if one.kind == "dynamic-update-slice" and one.operands[0] == parameter.name:
                result = max(result - whole, 0) + by_name[one.operands[1]].bytes
    return total + result


def made_by_start(start: Instruction, operands: list[Instruction]) -> tuple[int, int]:
    """(bytes, those of them in HBM) that an asynchronous instruction makes. Its result holds the
    operands too, but for an all-reduce.
    """
    if start.kind == "all-reduce-start":
        return start.bytes, start.hbm
    return (
        start.bytes - sum(one.bytes for one in operands),
        start.hbm - sum(one.hbm for one in operands),
    )


def moved_by(one: Instruction, sizes: dict[str, Instruction], computations: Computations) -> int:
    """Bytes of HBM that an instruction reads and writes."""
    operands = [sizes[name] for name in one.operands if name in sizes]
    if one.kind == "fusion":
        return moved_by_fusion(one, sizes, computations)
    if one.kind.endswith("-start"):
        made, written = made_by_start(one, operands)
        if one.kind.startswith("dynamic-update-slice"):
            return 2 * operands[1].hbm
        if "slice" in one.kind:
            return made * bool(operands[0].hbm) + written
        return sum(x.hbm for x in operands) + written
    if one.kind in ("dynamic-slice", "slice", "gather"):
        return 2 * one.hbm
    if one.kind == "dynamic-update-slice" and len(operands) > 1:
        return 2 * operands[1].hbm
    return one.hbm + sum(x.hbm for x in operands)


def branches(conditional: Instruction) -> list[str]:
    """The computations that a conditional chooses among."""
    found = []
    for several, one in _BRANCHES.findall(conditional.line):
        found += _NAME.findall(several) if several else [one]
    return found


def traffic(hlo: str) -> Traffic:
    """What a program moves in one call; of a conditional, the branch that moves most."""
    computations, entry = parse(hlo)
    known: dict[str, Traffic] = {}

    def of(name: str) -> Traffic:
        if name not in known:
            known[name] = Traffic()
            count(name, known[name], set())
        return known[name]

    def count(name: str, found: Traffic, seen: set[tuple], fused: bool = False) -> None:
        """`fused`: of the computation only collectives are counted. seen: kind, channel and
        operation of them; one that runs beside products stands in the fusions that start, carry and
        end it. A channel alone names none: all all-to-alls of a program have the same.
        """
        sizes = {one.name: one for one in computations[name]}
        for one in computations[name]:
            operation = re.search(r'op_name="([^"]*)"', one.line)
            operation = operation[1] if operation else one.kind
            kind = one.kind.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", one.line)
            same = (kind, channel[1] if channel else one.name, operation)
            if kind in COLLECTIVES and not (fused and same in seen):
                seen.add(same)
                operands = [sizes[name] for name in one.operands if name in sizes]
                moved = one.bytes
                if one.kind.endswith("-start"):
                    moved = made_by_start(one, operands)[0]
                if kind == "reduce-scatter":
                    moved = sum(x.bytes for x in operands)
                found.add_collective(kind, moved, operation)
            if one.kind == "while":
                found.add(of(_BODY.search(one.line)[1]), trips(one, computations))
            elif one.kind == "call":
                found.add(of(_CALLED.search(one.line)[1]))
            elif one.kind == "conditional":
                found.add(max((of(x) for x in branches(one)), key=lambda branch: branch.hbm))
            elif inner := _FUSED.search(one.line):  # TPU fuses collectives with products
                count(inner[1], found, seen, fused=True)
            if not fused and one.kind not in _FREE and not one.kind.endswith("-done"):
                moved = moved_by(one, sizes, computations)
                found.hbm += moved
                found.by_operation[operation] += moved

    return of(entry)
