"""Labels of the sources become unified ones, on records that are known."""

from __future__ import annotations

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.catalogue import table
from qoq_jax.climb.labels import chest_xray, ct, ecg, eeg, read

# ------------------------------------------------------------------------------------------ tables


def test_tables_lead_to_the_vocabulary_of_the_catalogue():
    """All of it, and nothing else."""
    found: dict[str, set[str]] = {}
    for row in read.rows("values"):
        found.setdefault(row["dataset"], set()).add(row["label"])
    for name, labels in found.items():
        assert labels == set(table.load()[name].labels), name


def test_every_line_has_a_source():
    for name in ("values", "ecg_scp", "ecg_snomed", "vindr_cxr"):
        assert all(row["source"] for row in read.rows(name)), name


def test_no_value_is_there_twice():
    keys = [(row["dataset"], row["column"], row["value"]) for row in read.rows("values")]
    assert len(set(keys)) == len(keys)
    for name in ("ecg_scp", "ecg_snomed"):
        codes = [row["code"] for row in read.rows(name)]
        assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (ecg.CLASSES, "ptb-xl"),
        (ecg.CLASSES, "georgia"),
        (chest_xray.CHEXPERT, "chexpert"),
        (chest_xray.CHEXPERT, "mimic-cxr"),
        (chest_xray.VINDR, "vindr-cxr"),
        (ct.RSPECT, "rspect"),
        (ct.INSPECT, "inspect"),
        (ct.LNDB, "lndb"),
        (eeg.IIIC, "iiic"),
    ],
)
def test_functions_use_the_vocabulary_of_the_catalogue(module, name):
    assert table.load()[name].labels == module


# --------------------------------------------------------------------------------------------- ECG

# Of ptbxl_database.csv, by ecg_id.
PTB_XL = [
    (1, {"NORM": 100.0, "LVOLT": 0.0, "SR": 0.0}, ("Normal", "Other")),
    (2, {"NORM": 80.0, "SBRAD": 0.0}, ("Normal",)),
    (3, {"NORM": 100.0, "SR": 0.0}, ("Normal",)),
    (8, {"IMI": 35.0, "ABQRS": 0.0, "SR": 0.0}, ("MI", "Other")),
]


@pytest.mark.parametrize(("ecg_id", "codes", "classes"), PTB_XL)
def test_scp_codes_of_ptb_xl(ecg_id, codes, classes):
    assert ecg.scp_classes(codes) == classes


# Of the headers' #Dx lines: the first records of Georgia, CPSC 2018 and PTB-XL in the Challenge.
CHALLENGE = [
    ("E00001", "426783006", ("Normal",)),
    ("A0001", "59118001", ("CD",)),
    ("HR00001", "251146004,426783006", ("Normal", "Other")),
]


@pytest.mark.parametrize(("record", "codes", "classes"), CHALLENGE)
def test_snomed_codes_of_the_challenge(record, codes, classes):
    assert ecg.snomed_classes(codes.split(",")) == classes


def test_the_first_record_of_ptb_xl_is_the_same_by_both_tables():
    assert ecg.scp_classes(PTB_XL[0][1]) == ecg.snomed_classes(["251146004", "426783006"])


@pytest.mark.parametrize(
    ("code", "label"),
    [
        # What the released code loses by comparing names with their case.
        (164889003, "A. Fib/Aflutter"),
        (164890007, "A. Fib/Aflutter"),
        (195080001, "A. Fib/Aflutter"),
        (57054005, "MI"),
        (413444003, "MI"),
        (195126007, "HYP"),
        (713422000, "CD"),
        (233917008, "CD"),
        (426627000, "Normal"),
        (418818005, "Other"),
        # In no list at all.
        (54329005, "MI"),
        (368009, "Other"),
        (164909002, "CD"),
        # Wrong or in conflict.
        (59931005, "STTC"),
        (425419005, "STTC"),
        (251146004, "Other"),
        (111975006, "STTC"),
    ],
)
def test_codes_that_the_released_code_gets_wrong(code, label):
    assert ecg.snomed_classes([code]) == (label,)


def test_atrial_fibrillation_is_no_conduction_disturbance():
    assert ecg.snomed_classes(["164889003"]) == ("A. Fib/Aflutter",)


def test_codes_that_the_challenge_takes_for_one():
    for one, other in ((733534002, 164909002), (713427006, 59118001)):
        assert ecg.snomed_classes([one]) == ecg.snomed_classes([other])


def test_normal_yields_to_a_diagnosis():
    assert ecg.snomed_classes(["426783006", "164865005"]) == ("MI",)
    assert ecg.scp_classes({"SR": 0.0, "AFIB": 0.0}) == ("A. Fib/Aflutter",)
    assert ecg.snomed_classes(["426177001", "284470004"]) == ("Normal", "Other")


def test_classes_come_in_order():
    codes = ["429622005", "164873001", "270492004", "164890007"]
    assert ecg.snomed_classes(codes) == ("CD", "HYP", "STTC", "A. Fib/Aflutter")


def test_all_statements_of_ptb_xl_are_known():
    assert len(read.rows("ecg_scp")) == 71


def test_an_unknown_code_is_an_error_with_its_place():
    with pytest.raises(DataError, match="E00001.hea: unknown code '12345'"):
        ecg.snomed_classes(["426783006", "12345"], where="E00001.hea")
    with pytest.raises(DataError, match="no code"):
        ecg.snomed_classes([])
    with pytest.raises(DataError, match="unknown code 'norm'"):
        ecg.scp_classes({"norm": 100.0})


# ------------------------------------------------------------------------------------ chest X-rays


def chexpert_row(**states):
    return dict.fromkeys(chest_xray.CHEXPERT, "") | {
        name.replace("_", " "): state for name, state in states.items()
    }


def test_chexpert_states():
    """The first row of train.csv: No Finding 1, Support Devices 1, three of 0."""
    row = chexpert_row(No_Finding="1.0", Support_Devices="1.0", Pneumothorax="0.0")
    assert chest_xray.chexpert(row) == chest_xray.Findings(("No Finding", "Support Devices"))


@pytest.mark.parametrize(
    ("policy", "labels", "ignored"),
    [
        ("zero", ("Edema",), ()),
        ("one", ("Edema", "Pneumonia"), ()),
        ("ignore", ("Edema",), ("Pneumonia",)),
    ],
)
def test_uncertain_labels(policy, labels, ignored):
    row = chexpert_row(Edema="1.0", Pneumonia="-1.0", Fracture="0.0")
    assert chest_xray.chexpert(row, policy) == chest_xray.Findings(labels, ignored)


def test_chexpert_reads_columns_by_name():
    row = dict(sorted(chexpert_row(Edema="1.0", Atelectasis="1.0").items()))
    assert chest_xray.chexpert(row).labels == ("Edema", "Atelectasis"), "order of CheXpert"
    with pytest.raises(DataError, match="Lung Opacity: the column is missing"):
        chest_xray.chexpert({name: "" for name in row if name != "Lung Opacity"})
    with pytest.raises(DataError, match="Edema: '2' is none of"):
        chest_xray.chexpert(row | {"Edema": "2"})


def test_no_finding_beside_a_finding_is_an_error():
    with pytest.raises(DataError, match="No Finding beside Edema"):
        chest_xray.chexpert(chexpert_row(No_Finding="1.0", Edema="1.0"))


def reader(*seen):
    columns = [row["column"] for row in read.rows("vindr_cxr") if row["column"] != "Other disease"]
    return {"image_id": "a", "rad_id": "R1"} | {name: str(int(name in seen)) for name in columns}


def test_majority_of_three_readers():
    rows = [reader("Pneumonia", "Infiltration"), reader("Pneumonia", "COPD"), reader("No finding")]
    reading = chest_xray.vindr(rows)
    assert reading.labels == ("Pneumonia",)
    # Of 18 votes, one against Pneumonia, one for COPD and one for No finding disagree.
    assert reading.agreement == pytest.approx(15 / 18)


def test_readers_without_a_majority():
    rows = [reader("Pneumonia"), reader("COPD"), reader("No finding")]
    assert chest_xray.vindr(rows).labels == ()


def test_consensus_of_the_test_split_and_both_spellings():
    row = reader("Other diseases")
    assert chest_xray.vindr([row]) == chest_xray.Reading(("Other diseases",), 1.0)
    row["Other disease"] = row.pop("Other diseases")
    assert chest_xray.vindr([row]).labels == ("Other diseases",)


def test_vindr_as_chexpert():
    row = reader("Rib fracture", "Nodule/Mass", "Lung tumor", "ILD")
    assert chest_xray.vindr([row], "chexpert").labels == ("Lung Lesion", "Fracture")


# ---------------------------------------------------------------------------------- the other sets


@pytest.mark.parametrize(
    ("dataset", "raw", "label"),
    [
        ("ham10000", "bkl", "OTHER"),
        ("ham10000", "AKIEC", "AKIEC"),
        ("pad-ufes-20", "SCC", "AKIEC"),
        ("pad-ufes-20", "NEV", "NV"),
        ("isic-2020", 1, "Malignant"),
        ("aptos2019", 2, "Moderate DR"),
        ("messidor-2", 4.0, "Proliferative DR"),
        ("messidor-2", "3.0", "Severe DR"),
        ("jichi", "ppdr", "PPDR"),
        ("cbis-ddsm", 0, "BI-RADS 0"),
        ("vindr-mammo", "BI-RADS 5", "BI-RADS 5"),
        ("kits23", True, "Malignant"),
        ("hemorrhage", "0", "Has Hemorrhage"),
        ("covid-us", "COVID", "covid"),
        ("tuev", 6, "BCKG"),
        ("bcss", 4, "Necrosis/debris"),
        ("hugadb", 8, "Standing"),
    ],
)
def test_values(dataset, raw, label):
    assert read.value(dataset, raw) == label


def test_a_value_that_is_not_in_the_table():
    with pytest.raises(DataError, match="pad-ufes-20: no label for 'SCK' .*did you mean 'ACK'|SEK"):
        read.value("pad-ufes-20", "SCK")
    with pytest.raises(DataError, match="has no table of values .*did you mean 'ham10000'"):
        read.value("ham1000", "mel")
    with pytest.raises(DataError, match="no label for 'None'"):
        read.value("kits23", None)


@pytest.mark.parametrize(
    ("present", "chronic", "both", "labels"),
    [
        (0, 1, 0, ("No PE",)),
        (1, 0, 0, ("Acute PE",)),
        (1, 1, 0, ("Chronic PE",)),
        (1, 0, 1, ("Chronic PE", "Acute PE")),
    ],
)
def test_rspect(present, chronic, both, labels):
    row = {"pe_present_on_image": present, "chronic_pe": chronic, "acute_and_chronic_pe": both}
    assert ct.rspect(row) == labels


@pytest.mark.parametrize(
    ("positive", "acute", "subsegmental", "label"),
    [
        (0, 0, 0, "No PE"),
        (1, 1, 1, "Acute Subsegmental-only PE"),
        (1, 1, 0, "Acute PE"),
        (1, 0, 1, "Subsegmental-only PE"),
        (1, 0, 0, "Chronic PE"),
    ],
)
def test_inspect(positive, acute, subsegmental, label):
    row = {"pe_positive": positive, "pe_acute": acute, "pe_subsegmentalonly": subsegmental}
    assert ct.inspect(row) == label


def test_inspect_says_what_is_missing():
    with pytest.raises(DataError, match="pe_acute: the column is missing"):
        ct.inspect({"pe_positive": "1"})
    with pytest.raises(DataError, match="pe_positive: 'maybe' is none of"):
        ct.inspect({"pe_positive": "maybe"})


def test_lndb_by_the_diameter_of_a_sphere():
    """A sphere of 3 mm has pi / 6 * 27 = 14.137 mm^3."""
    assert ct.lndb(1, 14.14) == "nodule >= 3 mm"
    assert ct.lndb(1, 14.13) == "nodule < 3 mm"
    assert ct.lndb(0, 500.0) == "non-nodule"
    with pytest.raises(DataError, match="Volume"):
        ct.lndb(1, float("nan"))


def test_votes():
    assert eeg.iiic([0, 1, 5, 0, 0, 3]) == "GPD"
    assert eeg.iiic([2, 2, 0, 0, 0, 0]) == "SZ", "the first of equals"
    with pytest.raises(DataError, match="no votes"):
        eeg.iiic([0, 0, 0, 0, 0, 0])
