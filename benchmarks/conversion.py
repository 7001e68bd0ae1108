"""A conversion by this process and by two workers of Beam: seconds, and the same bytes.

    python benchmarks/conversion.py --records 2000 --scans 12

Needs pip install -e '.[beam]'. docs/convert.md has the result.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from qoq_jax.climb import pipeline
from qoq_jax.climb.convert import sets, write

WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def build_georgia(root: pathlib.Path, count: int) -> None:
    """Headers of the Challenge, beside files that stand for their signals."""
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    for number in range(count):
        stem = root / f"g{number // 1000 + 1}" / f"E{number:05d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{stem.name}.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
        text = "\n".join([f"{stem.name} 12 500 5000", *lines, "#Dx: 426783006", ""])
        stem.with_suffix(".hea").write_text(text)
        stem.with_suffix(".mat").write_bytes(b"signals")


def build_lndb(root: pathlib.Path, count: int) -> None:
    """Scans of 512 x 512 x 72 voxels, 38 MB each."""
    rng = np.random.default_rng(0)
    (root / "data0").mkdir(parents=True)
    names = [f"LNDb-{number:04d}" for number in range(1, count + 1)]
    for name in names:
        scan = rng.normal(-700, 60, (72, 512, 512)).astype("<i2")
        scan.tofile(root / "data0" / f"{name}.raw")
        (root / "data0" / f"{name}.mhd").write_text(
            "ObjectType = Image\nNDims = 3\nDimSize = 512 512 72\nElementType = MET_SHORT\n"
            "Offset = 0 0 0\nElementSpacing = 0.7 0.7 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
            f"ElementByteOrderMSB = False\nElementDataFile = {name}.raw\n"
        )
    (root / "trainCTs.csv").write_text("LNDbID\n" + "".join(f"{int(n[5:])}\n" for n in names))
    nodules = "".join(f"{int(n[5:])},9,9,30,1,400\n" for n in names)
    (root / "trainNodules.csv").write_text("LNDbID,x,y,z,Nodule,Volume\n" + nodules)


def sha256(root: pathlib.Path) -> str:
    """Of names and bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000, help="of ECGs; default: 2000")
    parser.add_argument("--scans", type=int, default=12, help="default: 12")
    arguments = parser.parse_args()
    made = (("georgia", build_georgia, arguments.records), ("lndb", build_lndb, arguments.scans))
    with tempfile.TemporaryDirectory() as folder:
        pipeline.beam(pipeline.DIRECT)  # imported before the clock starts
        for name, build, count in made:
            found = {}
            for way in ("this process", "two workers"):
                root = pathlib.Path(folder, name, way)
                build(root, count)
                start, used = time.monotonic(), sum(os.times()[:4])
                run = pipeline.beam(pipeline.DIRECT, WORKERS) if "two" in way else pipeline.here
                report = write.convert(sets.get(name), root, 0, run)
                seconds, used = time.monotonic() - start, sum(os.times()[:4]) - used
                rows = sum(report["rows"].values())
                said = f"{rows} rows by {way} in {seconds:.1f} s, {used:.1f} s of CPU"
                print(f"{name}: {count} records, {said}")
                found[way] = sha256(root)
            print(f"{name}: the same bytes:", len(set(found.values())) == 1)


if __name__ == "__main__":
    main()
