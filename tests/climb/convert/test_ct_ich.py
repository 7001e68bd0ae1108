"""CT-ICH from version 1.1 on: volumes to the slices that version 1.0.0 published."""

import json

import nibabel
import numpy as np
import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert import sets, write
from qoq_jax.data import check, readers

HEAD = (
    "PatientNumber,SliceNumber,Intraventricular,Intraparenchymal,Subarachnoid,Epidural,Subdural,"
    "No_Hemorrhage,Fracture_Yes_No\n"
)
# Slices from the head down: the third axis is stored towards the feet
DOWNWARD = np.diag([-0.4, -0.4, -5.0, 1.0])


def scan(folder, patient, affine, mask_affine=None):
    """A head of 40 x 48 pixels and three slices: slice k holds 10 + 40 k HU, but for a corner of
    1000 HU at the patient's right back (low first, high second index: both axes run from the right
    front) and a bleeding of slice 1 before it.
    """
    values = np.zeros((40, 48, 3), np.int16) + 10 + 40 * np.arange(3, dtype=np.int16)
    values[:8, 40:] = 1000
    region = np.zeros(values.shape, np.uint8)
    region[:8, 30:38, 1] = 1
    for name, array, matrix in (("ct_scans", values, affine), ("masks", region, mask_affine)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(array, affine if matrix is None else matrix)
        nibabel.save(image, folder / name / f"{patient}.nii")


def table(folder, *lines):
    text = HEAD + "".join(f"{line}\n" for line in lines)
    (folder / "hemorrhage_diagnosis_raw_ct.csv").write_text(text)


LINES = ("49,1,0,0,0,0,0,1,0", "49,2,0,1,0,0,0,0,0", "49,3,0,0,0,0,0,1,1")


def rows(root):
    found = [line for path in root.glob("*.jsonl") for line in path.read_text().splitlines()]
    return {row["id"]: row for row in map(json.loads, found)}


@pytest.mark.parametrize("affine", [DOWNWARD, DOWNWARD * [1, 1, -1, 1]], ids=["down", "up"])
def test_lines_name_slices_in_the_order_in_which_they_are_stored(tmp_path, affine):
    folder = tmp_path / "ct-ich-1.3.1"
    # the mask's header says another orientation; its array is the scan's all the same
    scan(folder, "049", affine, np.eye(4))
    table(folder, *LINES, "59,1,0,0,0,0,0,1,0")
    report = write.convert(sets.get("hemorrhage"), tmp_path)
    found = rows(tmp_path)
    assert {name: row["answer"] for name, row in found.items()} == {
        "049-1": "No Hemorrhage",
        "049-2": "Has Hemorrhage",
        "049-3": "No Hemorrhage",
    }
    assert {row["patient"] for row in found.values()} == {"049"}
    assert report["dropped"] == {"its scan is not there": {"records": 1, "as": ["059-1"]}}
    for number in (1, 2, 3):
        picture = readers.read_image(tmp_path / found[f"049-{number}"]["images"][0])
        # the brain window, -20 to 100 HU; the patient's right back is at the lower left
        level = round((10 + 40 * (number - 1) + 20) * 255 / 120)
        assert picture.shape == (48, 40, 3)
        assert (picture[:40, 8:] == level).all() and (picture[40:, :8] == 255).all()
    mask = readers.read_mask(tmp_path / found["049-2"]["segmentation_path"])
    assert mask.sum() == 64 and mask[30:38, :8].all()
    assert "segmentation_path" not in found["049-1"]
    assert all(check.run(str(path)) == 0 for path in tmp_path.glob("*.jsonl"))


def test_slices_are_cut_once_and_those_that_are_missing_again(tmp_path):
    scan(tmp_path, "049", DOWNWARD)
    table(tmp_path, *LINES)
    write.convert(sets.get("hemorrhage"), tmp_path)
    kept = tmp_path / "slices" / "049" / "1.png"
    before = kept.read_bytes()
    kept.write_bytes(b"not cut again")
    write.convert(sets.get("hemorrhage"), tmp_path)
    assert kept.read_bytes() == b"not cut again"
    (tmp_path / "slices" / "049" / "3.png").unlink()  # as after a kill
    write.convert(sets.get("hemorrhage"), tmp_path)
    assert kept.read_bytes() == before and len(rows(tmp_path)) == 3


def test_slices_of_a_replaced_scan_are_cut_again_and_old_ones_go(tmp_path):
    scan(tmp_path, "049", DOWNWARD)
    table(tmp_path, *LINES)
    write.convert(sets.get("hemorrhage"), tmp_path)
    assert any("segmentation_path" in row for row in rows(tmp_path).values())
    for shape, kept in (((40, 48, 3), 3), ((40, 48, 4), 0)):
        nothing = nibabel.Nifti1Image(np.zeros(shape, np.int16), DOWNWARD)
        for path in (tmp_path / "ct_scans" / "049.nii", tmp_path / "masks" / "049.nii"):
            nibabel.save(nothing, path)
        if kept:
            write.convert(sets.get("hemorrhage"), tmp_path)
            assert not any("segmentation_path" in row for row in rows(tmp_path).values())
        else:
            with pytest.raises(DataError, match="3 its scan has another number of slices"):
                write.convert(sets.get("hemorrhage"), tmp_path)
        assert len(list((tmp_path / "slices" / "049").iterdir())) == kept


def test_a_scan_of_another_number_of_slices_is_left_out(tmp_path):
    scan(tmp_path, "049", DOWNWARD)
    scan(tmp_path, "050", DOWNWARD)
    table(tmp_path, *LINES, "50,1,0,0,0,0,0,1,0", "50,2,0,0,0,0,0,1,0")
    report = write.convert(sets.get("hemorrhage"), tmp_path)
    reason = "its scan has another number of slices than the table"
    assert report["dropped"] == {reason: {"records": 2, "as": ["050-1", "050-2"]}}


def test_a_mask_of_another_shape_or_none_is_named(tmp_path):
    scan(tmp_path, "049", DOWNWARD)
    table(tmp_path, *LINES)
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 3), np.uint8), DOWNWARD), tmp_path / "x.nii")
    mask = tmp_path / "masks" / "049.nii"
    (tmp_path / "x.nii").replace(mask)
    with pytest.raises(DataError, match="shape") as raised:
        write.convert(sets.get("hemorrhage"), tmp_path)
    assert raised.value.where == str(mask)
    mask.unlink()
    with pytest.raises(DataError, match="049.nii: is not there"):
        write.convert(sets.get("hemorrhage"), tmp_path)
