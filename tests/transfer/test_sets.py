"""Rows to labelled sets, and their labels to one vocabulary."""

import dataclasses

import numpy as np
import pytest
from helpers import transfer as tiny

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.arrays.record import Record
from qoq_jax.climb.labels import union
from qoq_jax.climb.mini import array_sets
from qoq_jax.transfer import inputs, run
from qoq_jax.transfer.config import TransferConfig, TransferDataConfig, encoder_of
from qoq_jax.transfer.inputs import find
from qoq_jax.transfer.sets import Vocabulary


def test_sets_know_their_labels_form_and_patients(sets):
    assert {name: one.exclusive for name, one in sets.items()} == {
        "skin": True,
        "chest": False,
        "heart": True,
    }
    assert {name: one.form for name, one in sets.items()} == {
        "skin": (1,),
        "chest": (1,),
        "heart": (2,),
    }
    assert [len(part) for part in sets["skin"].splits.values()] == [24, 4, 12]
    assert len(np.unique(sets["skin"].splits["train"].patients)) == 12


def test_a_clip_is_read_as_evenly_spaced_frames(sets):
    found = sets["heart"].splits["test"].read(0)
    assert found["pixels"].shape == (2, tiny.SIZE, tiny.SIZE, 3)
    assert found["pixels"].dtype == np.uint8
    assert found["slice_valid"].all()


def test_labels_of_one_domain_are_one_class_and_of_two_domains_are_two(sets):
    vocabulary = Vocabulary.of(sets.values())
    assert len(vocabulary) == 2 + 3 + 3  # Benign and Malignant of a skin are not those of a heart
    twin = dataclasses.replace(sets["skin"], name="twin", labels=("malignant", "BENIGN"))
    both = Vocabulary.of([sets["skin"], twin])
    assert both.columns(twin).tolist() == [1, 0]


def test_labels_of_one_meaning_are_one_class_by_the_table():
    (normal,) = union.classes("covid-19", "chest_xray", ("Normal",))
    assert normal in union.classes("chexpert", "chest_xray", ("No Finding", "Edema"))
    assert union.classes("covid-us", "ultrasound", ("normal",)) != union.classes(
        "busi", "ultrasound", ("Normal",)
    )


def test_two_labels_of_a_set_that_would_be_one_class_are_refused():
    with pytest.raises(DataError, match="'PDR' and 'Proliferative DR' are one class"):
        union.classes("jichi", "fundus", ("PDR", "Proliferative DR"))


def test_a_patient_in_two_splits_is_found(configured, tmp_path):
    shared = {"skin-test-3": "skin-train-0"}
    root = tiny.write_sets(tmp_path, ("skin",), shared)
    with pytest.raises(DataError, match="1 patients are in both train and test"):
        run.find_sets(configured(data={"extra": (root,)}))


def test_a_set_in_two_folders_is_refused(configured, folder):
    row = encoder_of(configured())
    with pytest.raises(DataError, match="is in two folders"):
        find(row, TransferDataConfig(), {"a": folder, "b": folder})


def test_an_unknown_set_or_target_is_named(configured, sets):
    with pytest.raises(ConfigError, match="no data set 'skim'.*did you mean 'skin'"):
        run.pretraining_sets(configured(sets=("skim",)), sets)
    with pytest.raises(ConfigError, match="is among sets"):
        configured(sets=("skin",), target="skin")


def test_the_target_is_never_pretrained_on(configured, sets):
    found = run.pretraining_sets(configured(target="skin"), sets)
    assert [one.name for one in found] == ["chest", "heart"]


def test_an_extra_folder_without_rows_is_refused(configured, folder, tmp_path):
    with pytest.raises(ConfigError, match="data.extra: no train.jsonl"):
        run.find_sets(configured(data={"extra": (folder, str(tmp_path))}))


@pytest.mark.parametrize(
    ("name", "encoder", "form"),
    [
        ("eeg-mini", "biot", (16, 2000)),
        ("connectome-mini", "gcn", (70, 360)),
        ("gait-mini", "motion", (512, 36)),
        ("ecg-rhythm-mini", "ecg_jepa_nano", (8, 2500)),
    ],
)
def test_records_of_arrays_are_a_set_too(tmp_path, name, encoder, form):
    array_sets.build(name, tmp_path, patients=12)
    data = TransferDataConfig(mini_rows=0, arrays=(str(tmp_path),))
    one = find(encoder_of(TransferConfig(encoder=encoder)), data, {})[name]
    assert (one.form, one.exclusive) == (form, True)
    sample = one.splits["train"].read(0)
    assert {array.shape[0] for array in sample.values()} == {form[0]}
    assert one.splits["train"].gold.shape[1] == len(one.labels)


class Tables(list):
    """Records of gene expression as a source gives them."""

    def __init__(self, records):
        super().__init__(records)
        self.folder = "here"
        self.report = {"dataset": "tables", "arrays": {"values": {}}}


def table(values, probes=("a", "b", "c")):
    values = np.array(values, np.float32)
    return Record("1", "1", ("x",), {"values": values}, {"probe": probes}, {}, "train")


def test_of_expression_the_probes_that_vary_most_are_taken():
    row = encoder_of(TransferConfig(encoder="expression_mlp"))
    two = dataclasses.replace(row, cfg=dataclasses.replace(row.cfg, genes=2))
    source = Tables([table([1, 0, 5]), table([3, 0, -5]), table([2, 1, np.nan])])
    form, read = inputs.RECORDS["expression"][1](two, source)
    assert form == (2,)
    sample = read(source[2])
    np.testing.assert_allclose(sample["values"], [0, 0])  # the mean of a; c is not known
    np.testing.assert_array_equal(sample["value_valid"], [True, False])
    with pytest.raises(ConfigError, match="tables has records of several platforms"):
        inputs.RECORDS["expression"][1](two, Tables([*source, table([1, 2, 3], ("a", "b", "d"))]))


@pytest.fixture(scope="module")
def connectomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("connectomes")
    array_sets.build("connectome-mini", path, patients=12)
    return str(path)


def test_records_of_another_kind_are_refused(connectomes):
    data = TransferDataConfig(mini_rows=0, arrays=(connectomes,))
    with pytest.raises(ConfigError, match="connectome-mini has no EEG"):
        find(encoder_of(TransferConfig(encoder="biot")), data, {})


def test_records_in_two_folders_are_refused(connectomes):
    data = TransferDataConfig(mini_rows=0, arrays=(connectomes, connectomes))
    with pytest.raises(DataError, match="connectome-mini: is in two folders"):
        find(encoder_of(TransferConfig(encoder="gcn")), data, {})
