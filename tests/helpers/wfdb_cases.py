"""WFDB records of random bytes, one for each thing that a header can say; the same bytes each time.

tests/data/make_wfdb_golden.py stores what the wfdb package reads from them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
FORMATS = (8, 16, 24, 32, 61, 80, 160, 212, 310, 311)
FRAMES, RATE = 509, 51  # just under 10 s
EDGES = 12  # frames at each end that the golden file keeps


def _size(kind: int, samples: int) -> int:
    whole, left = divmod(samples, 3)
    return {
        8: samples,
        80: samples,
        16: 2 * samples,
        61: 2 * samples,
        160: 2 * samples,
        24: 3 * samples,
        32: 4 * samples,
        212: (3 * samples + 1) // 2,
        310: 4 * whole + (0, 2, 4)[left],
        311: 4 * whole + (0, 2, 3)[left],
    }[kind]


def _bytes(name: str, size: int) -> bytes:
    return np.random.default_rng([*name.encode()]).bytes(size)


def _signals(folder: Path, file: str, kind: int, leads, extra: str = "", frame: int = 1) -> list:
    """Writes a signal file; its header lines. extra: after the format; frame: samples a frame."""
    offset = int(extra.rpartition("+")[2]) if "+" in extra else 0
    samples = FRAMES * frame * len(leads)
    data = np.frombuffer(_bytes(file, _size(kind, samples)), np.uint8).copy()
    if kind == 311:
        data[3::4] &= 0x3F  # the two bits that are not used
    (folder / file).write_bytes(b"\7" * offset + data.tobytes())
    multiple = f"x{frame}" if frame > 1 else ""
    return [
        f"{file} {kind}{multiple}{extra} {100 + i}.5({7 * i - 20})/{('mV', 'uV')[i % 2]} 16 3 "
        f"{i} 0 0 Lead {lead}"
        for i, lead in enumerate(leads)
    ]


def _header(folder: Path, name: str, lines: list, rate: str = str(RATE), frames=FRAMES) -> str:
    first = f"{name} {len(lines)} {rate} {frames} 12:00:00 01/01/2000"
    (folder / f"{name}.hea").write_text("\n".join([first, *lines, "#Dx: 426783006"]) + "\n")
    return name


def write(folder: Path, case: str) -> str:
    """Writes the record of a case; returns its name."""
    kind = case.removeprefix("format_")
    if kind.isdecimal():
        # 11 leads of 509 frames: the last group of bytes is not full in any format
        return _header(folder, case, _signals(folder, f"{case}.dat", int(kind), LEADS[1:]))
    return globals()[f"_{case}"](folder)


def _challenge_mat(folder: Path) -> str:
    """As in the PhysioNet Challenge of 2020: a .mat file whose first 24 bytes are MATLAB's."""
    lines = _signals(folder, "challenge_mat.mat", 16, LEADS, "+24")
    return _header(folder, "challenge_mat", lines)


def _two_files(folder: Path) -> str:
    """As in the PTB database: 12 leads in one file, Frank's in another (here of another format)."""
    lines = _signals(folder, "two_files.dat", 16, LEADS)
    lines += _signals(folder, "two_files.xyz", 212, ("vx", "vy", "vz"))
    return _header(folder, "two_files", lines)


def _skewed(folder: Path) -> str:
    """Every second lead was written three frames late (wfdb 4.3.1 fails on unlike skews)."""
    lines = _signals(folder, "skewed.dat", 16, LEADS)
    lines = [line.replace(" 16 ", f" 16:{3 * (i % 2)} ", 1) for i, line in enumerate(lines)]
    return _header(folder, "skewed", lines)


def _frames_of_two(folder: Path) -> str:
    """Two samples a frame, and the field of counters in the rate."""
    lines = _signals(folder, "frames_of_two.dat", 212, LEADS, frame=2)
    return _header(folder, "frames_of_two", lines, rate=f"{RATE}/360(5)")


def _sparse_header(folder: Path) -> str:
    """Names of leads, and next to nothing else: gain 0, no baseline, no unit, no length."""
    lines = _signals(folder, "sparse_header.dat", 16, LEADS)
    lines = [f"{line.split()[0]} 16 0 16 9 0 0 0 {line.split()[-1]}" for line in lines]
    name = _header(folder, "sparse_header", lines)
    path = folder / f"{name}.hea"
    path.write_text(path.read_text().replace(f" {FRAMES} 12:00:00 01/01/2000", ""))
    return name


def _segment(folder: Path, name: str, leads) -> None:
    lines = _signals(folder, f"{name}.dat", 16, leads)
    _header(folder, name, [line.replace("/uV", "/mV") for line in lines], rate="110")


def _segments(folder: Path) -> str:
    """Fixed layout: two records of the same signals, one after the other."""
    names = ("segments_1", "segments_2")
    for name in names:
        _segment(folder, name, LEADS)
    lines = [f"{name} {FRAMES}" for name in names]
    first = f"segments/2 12 110 {2 * FRAMES}"
    (folder / "segments.hea").write_text("\n".join([first, *lines]) + "\n")
    return "segments"


def _variable_segments(folder: Path) -> str:
    """Variable layout: a gap, and leads in another order in the second segment."""
    _segment(folder, "vs_0001", LEADS)
    _segment(folder, "vs_0002", LEADS[::-1])
    layout = [f"~ 0 200.0(0)/mV 0 0 0 0 0 Lead {lead}" for lead in LEADS]
    _header(folder, "vs_layout", layout, rate="110", frames=0)
    total = 2 * FRAMES + 30
    lines = ["vs_layout 0", f"vs_0001 {FRAMES}", "~ 30", f"vs_0002 {FRAMES}"]
    first = f"variable_segments/4 12 110 {total}"
    (folder / "variable_segments.hea").write_text("\n".join([first, *lines]) + "\n")
    return "variable_segments"


CASES = (
    *(f"format_{kind}" for kind in FORMATS),
    "challenge_mat",
    "two_files",
    "skewed",
    "frames_of_two",
    "sparse_header",
    "segments",
    "variable_segments",
)


def summary(signal: np.ndarray) -> dict[str, np.ndarray]:
    """What the golden file keeps of a signal [leads, n] in mV: both ends, sums and gaps."""
    signal = np.asarray(signal, np.float32)
    return {
        "ends": np.concatenate([signal[:, :EDGES], signal[:, -EDGES:]], axis=1),
        "sums": np.nansum(signal.astype(np.float64), axis=1),
        "gaps": np.isnan(signal).sum(axis=1),
        "shape": np.array(signal.shape),
    }
