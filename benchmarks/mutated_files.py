"""What the readers make of damaged files: a result, or one error that names the file.

    python benchmarks/mutated_files.py [--count 1000] [--seed 0] [--kinds png nifti ...]

Needs h5py (extra `ecg`); videos need the extra `video` and are left out without it. Of each kind a
small sound file is written and read, then `count` mutated copies: bytes changed, cut, repeated, and
numbers of headers replaced, sizes among them. Each copy is read in a process of its own kind, whose
death, memory and time are seen from outside. Exits with 1 where a reader died, raised anything but
a DataError that names the file, took over 10 s, or 2 GiB more than it had.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import pathlib
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import h5py
import nibabel
import numpy as np
import pydicom
import scipy.io
from helpers import slides
from helpers.dicom import make_dicom
from helpers.metaimage import make_metaimage
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from qoq_jax.base.errors import DataError
from qoq_jax.data import readers
from qoq_jax.data.readers import leads

SECONDS, BYTES = 10.0, 2 << 30  # of one file, at most
_LIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_NUMBERS = (b"0", b"-1", b"1e308", b"nan", b"99999999", b"18446744073709551616", b"0.5", b"")
_HEAD = 1024  # bytes in which most headers lie

#: Writes a sound file below a folder; returns (file to read, file to mutate).
Maker = Callable[[pathlib.Path], tuple[pathlib.Path, pathlib.Path]]
Reader = Callable[[pathlib.Path], object]


# ----------------------------------------------------------------------------------- sound files


def _grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(np.int16)


def _picture(ending: str, **options: object) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = folder / f"a.{ending}"
        pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
        pages = [Image.fromarray(pixels + np.uint8(page)) for page in range(3)]
        several = {"save_all": True, "append_images": pages[1:]} if options.pop("pages", 0) else {}
        pages[0].save(path, **options, **several)
        return path, path

    return write


def _slide(**options: object) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = slides.make_slide(folder / "a.svs", slides.picture(70, 90), **options)
        return path, path

    return write


def _region(path: pathlib.Path) -> object:
    return readers.read_image(f"{path}#x=10,y=20,width=60,height=40")


def _dicom(compression: str = "", frames: int = 1) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = folder / "a.dcm"
        if compression in ("", "rle"):
            make_dicom(path, _grey(frames, 24, 20), Modality="CT", RescaleIntercept=-1024)
            if compression:
                dataset = pydicom.dcmread(path)
                dataset.compress(RLELossless)
                dataset.save_as(path)
            return path, path
        out = io.BytesIO()
        Image.fromarray(_grey(24, 20).astype(np.uint8)).save(out, compression)
        syntax = {"JPEG": JPEGBaseline8Bit, "JPEG2000": JPEG2000Lossless}[compression]
        make_dicom(path, np.zeros((24, 20), np.uint8))
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([out.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        return path, path

    return write


def _waveform(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    source = pathlib.Path(pydicom.data.get_testdata_file("waveform_ecg.dcm"))
    path = folder / "a.dcm"
    path.write_bytes(source.read_bytes())
    return path, path


def _nifti(ending: str) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = folder / f"a{ending}"
        nibabel.Nifti1Image(_grey(9, 8, 7), np.eye(4)).to_filename(path)
        return path, path

    return write


def _nrrd(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    path, values = folder / "a.nrrd", _grey(9, 8, 7)
    head = b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 9 8 7\n"
    head += b"space directions: (1,0,0) (0,1,0) (0,0,2)\nendian: little\nencoding: raw\n\n"
    path.write_bytes(head + values.tobytes(order="F"))
    return path, path


def _metaimage(ending: str, packed: bool, voxels: bool) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = make_metaimage(folder / f"a.{ending}", _grey(9, 8, 7), packed)
        return path, path.with_suffix(".zraw" if packed else ".raw") if voxels else path

    return write


def _npz(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    path = folder / "a.npz"
    np.savez_compressed(path, frames=_grey(6, 9, 8).astype(np.uint8))
    return path, path


def _video(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    import cv2

    path = folder / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (32, 24))
    for frame in np.random.default_rng(0).integers(0, 256, (8, 24, 32, 3)).astype(np.uint8):
        writer.write(frame)
    writer.release()
    return path, path


def _clip(path: pathlib.Path) -> object:
    return readers.read_frames(f"{path}#start=0.1,end=0.35")


def _signal() -> np.ndarray:
    """float32 [12, 1000]: 10 s at 100 Hz, mV."""
    times = np.arange(1000) / 100
    return np.stack([np.sin(times * (2 + lead)) for lead in range(12)]).astype(np.float32)


def _wfdb(mutated: str) -> Maker:
    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path = folder / "a.hea"
        lines = [f"a.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads.STANDARD]
        path.write_text("\n".join(["a 12 100 1000", *lines, "#Dx: 426783006"]) + "\n")
        samples = np.rint(_signal().T * 1000).astype("<i2")
        path.with_suffix(".dat").write_bytes(samples.tobytes())
        return path, path.with_suffix(mutated)

    return write


def _bare(ending: str, name: str = "") -> Maker:
    """An ECG in a file of numbers, described by a JSON file beside it.

    Args:
      name: of the signal in a struct of MATLAB.
    """

    def write(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        path, signal_ = folder / f"a.{ending}", _signal()
        facts = {"rate": 100, "unit": "mV", "leads": list(leads.STANDARD), "signal": name}
        (folder / "ecg.json").write_text(json.dumps(facts))
        if ending == "h5":
            with h5py.File(path, "w") as file:
                file["tracings"] = signal_
        elif name:
            notes = np.array(["one", np.arange(3)], object)
            record = {"data": signal_, "sex": "Male", "notes": notes}
            scipy.io.savemat(path, {name.partition(".")[0]: record})
        elif ending == "mat":
            scipy.io.savemat(path, {"val": signal_})
        elif ending == "csv":
            np.savetxt(path, signal_.T, delimiter=",", header=",".join(leads.STANDARD), comments="")
        else:
            np.save(path, signal_)
        return path, path

    return write


def _ecg_npz(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    path = folder / "a.npz"
    np.savez_compressed(path, signal=_signal(), fs=100.0, leads=np.array(leads.STANDARD))
    return path, path


KINDS: dict[str, tuple[Maker, Reader]] = {
    "png": (_picture("png"), readers.read_image),
    "jpeg": (_picture("jpg"), readers.read_image),
    "tiff": (_picture("tif", compression="tiff_lzw"), readers.read_image),
    "bmp": (_picture("bmp"), readers.read_image),
    "webp": (_picture("webp"), readers.read_image),
    "slide": (_slide(), _region),
    "slide, BigTIFF": (_slide(big=True, rgb=True), _region),
    "slide, deflate": (_slide(compression=slides.DEFLATE), _region),
    "slide, JPEG 2000": (_slide(compression=slides.YCBCR_2000), _region),
    "dicom": (_dicom(), readers.read_image),
    "dicom, RLE": (_dicom("rle"), readers.read_image),
    "dicom, JPEG": (_dicom("JPEG"), readers.read_image),
    "dicom, JPEG 2000": (_dicom("JPEG2000"), readers.read_image),
    "dicom, frames": (_dicom(frames=6), readers.read_frames),
    "tiff, pages": (_picture("tif", pages=3), readers.read_frames),
    "nifti": (_nifti(".nii"), readers.read_frames),
    "nifti, gzip": (_nifti(".nii.gz"), readers.read_frames),
    "nrrd": (_nrrd, readers.read_frames),
    "metaimage": (_metaimage("mha", False, False), readers.read_frames),
    "metaimage, header": (_metaimage("mhd", True, False), readers.read_frames),
    "metaimage, zraw": (_metaimage("mhd", True, True), readers.read_frames),
    "npz": (_npz, readers.read_frames),
    "video": (_video, readers.read_frames),
    "video, interval": (_video, _clip),
    "mask, png": (_picture("png"), readers.read_mask),
    "mask, nifti": (_nifti(".nii.gz"), readers.read_mask),
    "mask, dicom": (_dicom(), readers.read_mask),
    "wfdb, header": (_wfdb(".hea"), readers.read_ecg),
    "wfdb, signals": (_wfdb(".dat"), readers.read_ecg),
    "ecg, dicom": (_waveform, readers.read_ecg),
    "ecg, npz": (_ecg_npz, readers.read_ecg),
    "ecg, hdf5": (_bare("h5"), readers.read_ecg),
    "ecg, mat": (_bare("mat"), readers.read_ecg),
    "ecg, mat struct": (_bare("mat", "ECG.data"), readers.read_ecg),
    "ecg, npy": (_bare("npy"), readers.read_ecg),
    "ecg, csv": (_bare("csv"), readers.read_ecg),
}
if importlib.util.find_spec("cv2") is None:
    del KINDS["video"], KINDS["video, interval"]


# ------------------------------------------------------------------------------------- mutations


def mutate(sound: bytes, draw: random.Random) -> bytes:
    """One to three damages of a file."""
    body = bytearray(sound)
    for _ in range(draw.choice((1, 1, 2, 3))):
        draw.choice((_flip, _flip, _cut, _lie, _lie, _number, _repeat))(body, draw)
    return bytes(body)


def _flip(body: bytearray, draw: random.Random) -> None:
    reach = draw.choice((_HEAD, len(body)))
    for _ in range(draw.choice((1, 4, 16))):
        if body:
            body[draw.randrange(min(len(body), reach))] = draw.randrange(256)


def _cut(body: bytearray, draw: random.Random) -> None:
    del body[draw.randrange(len(body) + 1) :]


def _lie(body: bytearray, draw: random.Random) -> None:
    """Another number where a header may keep one."""
    width = draw.choice((1, 2, 4, 8))
    number = draw.choice((*_LIES, draw.getrandbits(8 * width))) % (1 << 8 * width)
    at = draw.randrange(min(max(len(body) - width, 1), _HEAD))
    body[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))


def _number(body: bytearray, draw: random.Random) -> None:
    """Another number where a text has one."""
    found = list(re.finditer(rb"\d+", bytes(body[:_HEAD])))
    if found:
        one = draw.choice(found)
        body[one.start() : one.end()] = draw.choice(_NUMBERS)


def _repeat(body: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(body) + 1)
    part = body[start : start + draw.choice((1, 64, 4096))]
    body[start:start] = part * draw.choice((1, 8))


# --------------------------------------------------------------------------------------- reading


def outcome(read: Reader, path: pathlib.Path, folder: pathlib.Path) -> str:
    """ "read", "refused", or what is wrong with the reader."""
    try:
        read(path)
    except DataError as error:
        named = str(folder) in (error.where or "") and error.hint and "\n" not in str(error)
        return "refused" if named else f"error without the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def read_mutated(kind: str, numbers: range, seed: int, say: Callable[..., None]) -> None:
    """Reads mutations of one kind; say(number, outcome, seconds) for each.

    Raises:
      AssertionError: the sound file is not read.
    """
    make, read = KINDS[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path, mutated = make(folder)
        sound = mutated.read_bytes()
        found = outcome(read, path, folder)
        assert found == "read", f"{kind}: the sound file: {found}"
        for number in numbers:
            mutated.write_bytes(mutate(sound, random.Random(f"{seed}/{kind}/{number}")))
            before = time.perf_counter()
            found = outcome(read, path, folder)
            say(number, found, time.perf_counter() - before)


def _in_child(kind: str, count: int, seed: int) -> tuple[Counter[str], float, int]:
    """(outcomes, most seconds, most bytes) of one kind, over as many processes as die."""
    outcomes: Counter[str] = Counter()
    slowest, memory, done = 0.0, 0, 0
    while done < count:
        source, target = os.pipe()
        child = os.fork()
        if not child:
            os.close(source)
            _child(kind, range(done, count), seed, target)
        os.close(target)
        with open(source, encoding="utf-8") as lines:
            for line in lines:
                number, found, seconds, held = json.loads(line)
                outcomes[found if seconds < SECONDS else "slow"] += 1
                done, slowest, memory = number + 1, max(slowest, seconds), max(memory, held)
        _, status = os.waitpid(child, 0)
        if status and done < count:
            death = signal.Signals(status & 127).name if status & 127 else f"exit {status >> 8}"
            outcomes[f"died: {death} (number {done})"] += 1
            done += 1
    return outcomes, slowest, memory


def _child(kind: str, numbers: range, seed: int, target: int) -> None:
    """Reads in this process, which ends here, by SIGALRM where one file takes too long."""
    status = 1
    try:
        start = _held()
        virtual = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (virtual + BYTES, virtual + BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open(target, "w", encoding="utf-8", buffering=1) as out:

            def say(number: int, found: str, seconds: float) -> None:
                signal.alarm(int(SECONDS) + 5)
                print(json.dumps([number, found, seconds, _held() - start]), file=out)

            signal.alarm(int(SECONDS) + 5)
            read_mutated(kind, numbers, seed, say)
        status = 0
    finally:
        os._exit(status)


def _held() -> int:
    """The most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    arguments = parser.parse_args()
    print("| kind | read | refused | else | slowest, s | memory, MB |\n|---|---|---|---|---|---|")
    bad: dict[str, Counter[str]] = {}
    for kind in arguments.kinds:
        read_mutated(kind, range(0), arguments.seed, print)  # the sound file
        outcomes, slowest, memory = _in_child(kind, arguments.count, arguments.seed)
        read, refused = outcomes.pop("read", 0), outcomes.pop("refused", 0)
        bad |= {kind: outcomes} if outcomes else {}
        print(
            f"| {kind} | {read} | {refused} | {outcomes.total()} | {slowest:.2f} | "
            f"{memory / 1e6:.0f} |",
            flush=True,
        )
    for kind, outcomes in bad.items():
        for found, times in outcomes.most_common():
            print(f"{kind}: {times} times: {found}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
