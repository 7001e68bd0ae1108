"""Damaged files of every kind that a reader takes; benchmarks/mutated_files.py is the long form."""

import random

import pytest

from benchmarks import mutated_files

EACH = 30
NAMES = (
    *("png", "jpg", "tiff", "bmp", "webp", "mask.png", "pages.tiff"),
    *("dicom", "dicom of frames", "dicom, RLE", "dicom, JPEG", "dicom, JPEG 2000"),
    *("nii", "nii.gz", "mask.nii", "nrrd, raw", "nrrd, gzip", "frames.npz"),
    *(f"ecg .{ending}" for ending in ("npz", "npy", "mat", "hdf5", "csv")),
    *("wfdb .hea", "wfdb .dat", "ecg.json"),
    *("rows, lines", "rows, gzip", "rows, list", "rows, ArrayRecord"),
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return mutated_files.kinds(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_in_its_form_or_an_error_that_names_it(kinds, name):
    kind = kinds[name]
    assert mutated_files.outcome(kind) == ("read", "")
    found, details, _ = mutated_files.damage(kind, EACH, name)
    assert not details, details[:2]
    assert found["error"] + found["read"] == EACH


def test_faults_are_noticed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100))

    def fails(path):
        raise KeyError("anything")

    kind = mutated_files.Kind(path, fails, lambda found: True)
    assert mutated_files.outcome(kind)[0] == "FAULT: another exception"
    kind = mutated_files.Kind(path, lambda path: 0, lambda found: False)
    assert mutated_files.outcome(kind)[0] == "FAULT: not the right form"
    rng = random.Random(0)
    assert len({mutated_files.mutate(bytes(100), rng) for _ in range(50)}) > 40
