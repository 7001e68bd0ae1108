"""Damaged media: each reader gets files with flipped bytes, cut short, or with headers that lie
about sizes. Each must end as an array of the right form or as one error that names the file.

    python benchmarks/mutated_files.py [KIND ...] --count 1000

Every kind runs in a process of its own, so that a crash is counted and not the end; a file that
takes over 10 s, or 2 GiB more than its process had, is a fault. The exit code is 1 when there was
any. Needs pip install -e '.[dev]', and the extra `video` for .mp4 and .avi. docs/field_cases.md has
the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import io
import json
import multiprocessing
import os
import pathlib
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import nibabel
import numpy as np
import pydicom
import scipy.io
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from qoq_jax.base.errors import DataError
from qoq_jax.data import index, readers
from qoq_jax.data.readers.leads import STANDARD

SECONDS, BYTES = 10.0, 2 << 30  # limits of one file
# What is well-formed and wrong: sizes at the edges of their types.
_EDGES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 2**63 - 1)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A reader and a sound file of it.

    Attributes:
      path: the file; others that it needs lie beside it.
      read: the reader.
      sound: whether what it returned has the right form.
      damaged: which file is mutated; None: `path`.
    """

    path: pathlib.Path
    read: Callable
    sound: Callable[[object], bool]
    damaged: pathlib.Path | None = None


def picture(found) -> bool:
    return found.dtype == np.uint8 and found.ndim == 3 and found.shape[-1] == 3 and found.size > 0


def clip(found) -> bool:
    return found.dtype == np.uint8 and found.ndim == 4 and len(found) == 4 and found.size > 0


def ecg(found) -> bool:
    return found.shape == (8, 2500) and bool(np.isfinite(found).all())


def region(found) -> bool:
    return found.dtype == bool and found.ndim == 2


def rows(path) -> list:
    """The sound rows of a file, and the errors of the others."""
    found = index.open_rows(path)
    return [*found, *found.index.faults]


def listed(found) -> bool:
    return len(found) > 0


def kinds(folder: pathlib.Path) -> dict[str, Kind]:
    """Sound files of every kind that a reader takes, written below the folder."""
    made: dict[str, Kind] = {}
    for write in (_pictures, _dicoms, _volumes, _ecgs, _row_files, _videos):
        for name, kind in write(folder).items():
            made[name] = kind
    return made


def _grey(h: int = 48, w: int = 64) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return ((x * 3 + y * 5) % 256).astype(np.uint8)


def _pictures(folder: pathlib.Path) -> dict[str, Kind]:
    colour = np.dstack([_grey(), _grey()[::-1], _grey()[:, ::-1]])
    made = {}
    for kind in ("png", "jpg", "tiff", "bmp", "webp"):
        path = folder / f"picture.{kind}"
        Image.fromarray(colour).save(path)
        made[kind] = Kind(path, readers.read_image, picture)
    path = folder / "mask.png"
    Image.fromarray((_grey() > 128).astype(np.uint8) * 255).save(path)
    made["mask.png"] = Kind(path, readers.read_mask, region)
    path = folder / "pages.tiff"
    pages = [Image.fromarray(np.roll(colour, i, 0)) for i in range(5)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_deflate")
    made["pages.tiff"] = Kind(path, readers.read_frames, clip)
    return made


def _dicom(path: pathlib.Path, frames: np.ndarray, syntax: str, data: bytes | None = None) -> None:
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = syntax
    data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data_set.Modality, data_set.PhotometricInterpretation = "OT", "MONOCHROME2"
    data_set.NumberOfFrames, data_set.Rows, data_set.Columns = frames.shape
    data_set.SamplesPerPixel, data_set.PixelRepresentation = 1, 0
    data_set.BitsAllocated = data_set.BitsStored = 8
    data_set.HighBit = 7
    data_set.PixelData = frames.tobytes() if data is None else data
    if data is not None:
        data_set["PixelData"].is_undefined_length = True
    data_set.save_as(path, enforce_file_format=True)


def _dicoms(folder: pathlib.Path) -> dict[str, Kind]:
    plain = pydicom.uid.ExplicitVRLittleEndian
    _dicom(folder / "plain.dcm", _grey()[None], plain)
    _dicom(folder / "frames.dcm", np.stack([_grey()] * 5), plain)
    made = {
        "dicom": Kind(folder / "plain.dcm", readers.read_image, picture),
        "dicom of frames": Kind(folder / "frames.dcm", readers.read_frames, clip),
    }
    rle = pydicom.dcmread(folder / "plain.dcm")
    rle.compress(pydicom.uid.RLELossless)
    rle.save_as(folder / "rle.dcm")
    made["dicom, RLE"] = Kind(folder / "rle.dcm", readers.read_image, picture)
    for name, form, syntax in (
        ("JPEG", "JPEG", pydicom.uid.JPEGBaseline8Bit),
        ("JPEG 2000", "JPEG2000", pydicom.uid.JPEG2000Lossless),
    ):
        out = io.BytesIO()
        Image.fromarray(_grey()).save(out, form, **({"no_jp2": True} if "2" in form else {}))
        path = folder / f"{form}.dcm"
        _dicom(path, _grey()[None], syntax, encapsulate([out.getvalue()]))
        made[f"dicom, {name}"] = Kind(path, readers.read_image, picture)
    wave = pathlib.Path(pydicom.data.get_testdata_file("waveform_ecg.dcm"))
    made["dicom waveform"] = Kind(wave, readers.read_ecg, ecg)
    return made


def _volumes(folder: pathlib.Path) -> dict[str, Kind]:
    values = np.arange(12 * 14 * 6, dtype=np.int16).reshape(12, 14, 6)
    made = {}
    for name in ("v.nii", "v.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / name)
        made[name[2:]] = Kind(folder / name, readers.read_frames, clip)
    made["mask.nii"] = Kind(folder / "v.nii", readers.read_mask, region)
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 14 6\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
        "encoding: {}\nspace origin: (0,0,0)\n\n"
    )
    body = values.tobytes("F")
    for coding, content in (("raw", body), ("gzip", gzip.compress(body))):
        path = folder / f"{coding}.nrrd"
        path.write_bytes(header.format(coding).encode() + content)
        made[f"nrrd, {coding}"] = Kind(path, readers.read_frames, clip)
    np.savez_compressed(folder / "frames.npz", frames=np.stack([_grey()] * 5))
    made["frames.npz"] = Kind(folder / "frames.npz", readers.read_frames, clip)
    return made


def _ecgs(folder: pathlib.Path) -> dict[str, Kind]:
    import h5py

    t = np.arange(1000) / 100
    signal = np.stack([np.sin(2 * np.pi * (1 + i / 10) * t) + 0.01 for i in range(12)])
    signal = signal.astype(np.float32)
    facts = {"rate": 100, "unit": "mV", "leads": list(STANDARD)}
    (folder / "ecg.json").write_text(json.dumps(facts))
    np.savez_compressed(folder / "a.npz", signal=signal, fs=100.0, leads=np.array(STANDARD))
    np.save(folder / "a.npy", signal)
    scipy.io.savemat(folder / "a.mat", {"val": signal}, do_compression=True)
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("ecg", data=signal, compression="gzip")
    lines = [",".join(STANDARD), *(",".join(f"{value:.4f}" for value in row) for row in signal.T)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    (signal.T * 1000).astype("<i2").tofile(folder / "r.dat")
    leads = [f"r.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in STANDARD]
    (folder / "r.hea").write_text("\n".join(["r 12 100 1000", *leads]) + "\n")
    made = {
        f"ecg {path.suffix}": Kind(path, readers.read_ecg, ecg)
        for path in (folder / f"a.{ending}" for ending in ("npz", "npy", "mat", "hdf5", "csv"))
    }
    header, data = folder / "r.hea", folder / "r.dat"
    made["wfdb .hea"] = Kind(header, readers.read_ecg, ecg)
    made["wfdb .dat"] = Kind(header, readers.read_ecg, ecg, damaged=data)
    made["ecg.json"] = Kind(folder / "a.npy", readers.read_ecg, ecg, damaged=folder / "ecg.json")
    return made


def _row_files(folder: pathlib.Path) -> dict[str, Kind]:
    from array_record.python import array_record_module as array_record

    texts = [
        json.dumps(
            {
                "id": f"r{number}",
                "domain": "ct",
                "problem": "Answer with one of the following: A, B.",
                "answer": "A",
                "images": ["picture.png"],
            }
        ).encode()
        for number in range(20)
    ]
    folder = folder / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(texts) + b"\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(texts) + b"\n"))
    (folder / "c.jsonl").write_bytes(b"[" + b",".join(texts) + b"]")
    writer = array_record.ArrayRecordWriter(str(folder / "d.array_record"), "group_size:1")
    for text in texts:
        writer.write(text)
    writer.close()
    names = {"a.jsonl": "rows, lines", "b.jsonl.gz": "rows, gzip", "c.jsonl": "rows, list"}
    names["d.array_record"] = "rows, ArrayRecord"
    return {name: Kind(folder / file, rows, listed) for file, name in names.items()}


def _videos(folder: pathlib.Path) -> dict[str, Kind]:
    try:
        import cv2
    except ImportError:
        return {}
    made = {}
    for ending, code in (("mp4", "mp4v"), ("avi", "MJPG")):
        path = folder / f"clip.{ending}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10, (64, 48))
        for number in range(12):
            writer.write(np.dstack([np.roll(_grey(), number, 1)] * 3))
        writer.release()
        made[ending] = Kind(path, readers.read_frames, clip)
    return made


# ------------------------------------------------------------------------------------------ damage


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one to three of: flipped bits, a cut, a lie about a size, bytes put in."""
    for _ in range(rng.randint(1, 3)):
        if not data:
            break
        data = rng.choice((_flip, _cut, _lie, _lie, _insert))(bytearray(data), rng)
    return bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    """Headers are small and damage to them is worse: half of the places are in the first 600."""
    return rng.randrange(min(len(data), 600) if rng.random() < 0.5 else len(data))


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: _place(data, rng)]


def _lie(data: bytearray, rng: random.Random) -> bytearray:
    """Another number where one may stand: binary, or the digits of a text."""
    digits = [found.span() for found in re.finditer(rb"\d+", data[:4096])]
    if digits and rng.random() < 0.5:
        start, end = rng.choice(digits)
        data[start:end] = rng.choice((b"0", b"-1", b"99999999999999999999", b"1e400", b"65536"))
        return data
    size, value = rng.choice((1, 2, 4, 8)), rng.choice(_EDGES)
    at = _place(data, rng)
    written = (value % 256**size).to_bytes(size, rng.choice(("little", "big")))
    data[at : at + size] = written
    return data


def _insert(data: bytearray, rng: random.Random) -> bytearray:
    at = _place(data, rng)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 600)))
    return data


def outcome(kind: Kind) -> tuple[str, str]:
    """("read", "error" or "FAULT: why", details) of the file as it is now."""
    damaged = kind.damaged or kind.path
    try:
        found = kind.read(kind.path)
    except DataError as error:
        named = any(path.name in str(error) for path in (damaged, kind.path))
        return ("error", "") if named else ("FAULT: names no file", str(error))
    except BaseException:
        return "FAULT: another exception", traceback.format_exc()
    return ("read", "") if kind.sound(found) else ("FAULT: not the right form", repr(found)[:200])


def damage(
    kind: Kind, count: int, seed: str, keep: pathlib.Path | None = None
) -> tuple[Counter[str], list[str], float]:
    """(outcomes, details of faults, the longest time) of `count` mutated files."""
    damaged = kind.damaged or kind.path
    sound, rng = damaged.read_bytes(), random.Random(seed)
    found, details, longest = Counter(), [], 0.0
    for number in range(count):
        content = mutate(sound, rng)
        if content == sound:
            content = content[:-1]
        damaged.write_bytes(content)
        if keep is not None:  # where a crash leaves the file that it was
            keep.write_bytes(content)
        start = time.monotonic()
        what, detail = outcome(kind)
        longest = max(longest, seconds := time.monotonic() - start)
        if seconds > SECONDS:
            what, detail = "FAULT: too slow", f"{seconds:.1f} s"
        found[what] += 1
        if what.startswith("FAULT"):
            details.append(f"{what}, number {number}: {detail}")
    damaged.write_bytes(sound)
    return found, details, longest


def _child(name: str, count: int, keep: str, results) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # what decoders in C print
    warnings.simplefilter("error")  # as in the tests
    with tempfile.TemporaryDirectory() as folder:
        kind = kinds(pathlib.Path(folder))[name]
        copy = pathlib.Path(folder, kind.path.name)  # not a file of a package
        if not copy.exists():
            copy.write_bytes(kind.path.read_bytes())
            kind = dataclasses.replace(kind, path=copy)
        if outcome(kind) != ("read", ""):
            results.put((Counter({"FAULT: not read while sound": 1}), [str(outcome(kind))], 0.0, 0))
            return
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found, details, longest = damage(kind, count, name, pathlib.Path(keep))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if grown > BYTES:
            found["FAULT: too much memory"] += 1
        results.put((found, details, longest, grown))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="default: all")
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.kinds or list(kinds(pathlib.Path(folder)))
    context, faults = multiprocessing.get_context("spawn"), 0
    print("| kind | error | read | faults | longest | memory |\n|---|---|---|---|---|---|")
    for name in names:
        results = context.SimpleQueue()
        keep = os.path.join(tempfile.gettempdir(), f"mutated-{os.getpid()}")
        process = context.Process(target=_child, args=(name, arguments.count, keep, results))
        process.start()
        process.join()
        if results.empty():
            faults += 1
            print(f"| {name} | | | CRASH {process.exitcode}; the file: {keep} | | |")
            continue
        found, details, longest, grown = results.get()
        bad = sum(number for what, number in found.items() if what.startswith("FAULT"))
        faults += bad
        print(
            f"| {name} | {found['error']} | {found['read']} | {bad} | {longest:.2f} s "
            f"| {grown / 2**20:.0f} MiB |",
            flush=True,
        )
        for detail in details[:3]:
            print(detail)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
