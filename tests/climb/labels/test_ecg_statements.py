"""Statements of ECG machines: the class of each, and what a record of several becomes."""

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.climb.labels import ecg, ecg_statements, read

# As printed -> classes, with "uncertain" for a finding that is doubted
PRINTED = {
    "Sinus rhythm": "Normal",
    "SINUS RHYTHM": "Normal",
    "Sinus rhythm.": "Normal",
    "Sinus rhythm with borderline 1st degree A-V block.": "Normal CD",
    "- first degree A-V block": "CD",
    "Sinus rhythm with PAC(s)": "Normal Other",
    "Sinus or ectopic atrial rhythm": "uncertain",
    "Sinus bradycardia - consider sinus rhythm with 2:1 S-A block.": "Normal uncertain",
    "Atrial fibrillation with rapid ventricular response": "A. Fib/Aflutter",
    "Probable atrial fibrillation with PVC(s)": "uncertain",
    "Afib/flutter and ventricular-paced rhythm": "A. Fib/Aflutter CD",
    "Atrial flutter with 4:1 A-V block": "A. Fib/Aflutter",
    "Regular supraventricular rhythm": "Other",
    "Supraventricular tachycardia": "CD",
    "RBBB with RAD - possible left posterior fascicular block": "CD HYP uncertain",
    "IVCD, consider atypical LBBB": "CD uncertain",
    "Incomplete RBBB": "CD",
    "AV block, complete (third degree)": "CD",
    "WPW pattern - probable midseptal accessory pathway": "CD",
    "Left axis deviation": "HYP",
    "Leftward axis": "uncertain",
    "Low voltage with right axis deviation": "HYP Other",
    "Left ventricular hypertrophy with secondary repolarization abnormality": "HYP STTC",
    "Possible left ventricular hypertrophy": "uncertain",
    "LAE, consider biatrial enlargement": "HYP uncertain",
    "Poor R wave progression - cannot rule out septal infarct": "CD uncertain",
    "Poor R wave progression - probable normal variant": "",
    "Inferior infarct - age undetermined": "MI",
    "Old inferior infarct": "MI",
    "*** ANTEROSEPTAL INFARCT - POSSIBLY ACUTE ***": "MI",
    "Possible anterior infarct - age undetermined": "uncertain",
    "Cannot rule out anterior infarct - age undetermined": "uncertain",
    "*** CONSIDER ACUTE ST ELEVATION MI ***": "uncertain",
    "Inferior ST elevation, CONSIDER ACUTE INFARCT": "uncertain",
    "QRS changes V3/V4 may be due to LVH but cannot rule out anterior infarct": "uncertain",
    "Inferior/lateral ST-T changes may be due to myocardial ischemia": "STTC",
    "Anteroseptal ST depression is probably reciprocal to inferior infarct": "STTC",
    "Anterior T wave abnormality is borderline": "uncertain",
    "Lateral T wave abnormality is age and gender related": "",
    "Nonspecific T abnrm, anterolateral leads": "STTC",
    "ST elev, probable normal early repol pattern": "Other",
    "Prolonged QT - consider ischemia, electrolyte imbalance, drug effects": "STTC",
    "Borderline prolonged QT interval": "uncertain",
    "Pacemaker rhythm - no further analysis": "Other",
    "--- Suspect arm lead reversal - only aVF, V1-V6 analyzed ---": "",
    "*** Report made without knowing patient's sex or age ***": "",
    "Normal ECG except for rate": "Normal",
    "Borderline ECG": "",
    "Abnormal ECG": "abnormal",
}


@pytest.mark.parametrize("statement", PRINTED)
def test_a_statement_has_its_classes(statement):
    found = ecg_statements.of_statement(statement)
    left = PRINTED[statement]
    assert found is not None
    for one in found:
        assert one in left
        left = left.replace(one, "", 1)
    assert not left.strip()


@pytest.mark.parametrize(
    "statement",
    ["Complex QRS morphology", "Sinus rhythm with something new", "No evidence of infarct", "0xA7"],
)
def test_a_statement_with_a_word_of_which_nothing_is_known_is_not_known(statement):
    assert ecg_statements.of_statement(statement) is None
    with pytest.raises(DataError, match="not known"):
        ecg_statements.classes(["Normal ECG", statement])


@pytest.mark.parametrize(
    "statements, labels",
    [
        (["Sinus rhythm", "Normal ECG"], "Normal"),
        (["Sinus rhythm", "Borderline ECG"], "Normal"),
        (["Sinus rhythm with PAC(s)", "Borderline ECG"], "Normal, Other"),
        (["Sinus rhythm with PAC(s)", "Abnormal ECG"], "Other"),
        (["Sinus rhythm", "Right bundle branch block", "Abnormal ECG"], "CD"),
        (["Left axis deviation", "Possible inferior infarct - age undetermined"], "HYP"),
    ],
)
def test_a_normal_rhythm_yields_to_a_finding(statements, labels):
    assert ", ".join(ecg_statements.classes(statements)) == labels


@pytest.mark.parametrize(
    "statements, said",
    [
        ([], "no statement of a finding"),
        (["Borderline ECG"], "no statement of a finding"),
        (["Sinus tachycardia", "Abnormal ECG"], "called abnormal without a finding"),
        (["Sinus rhythm", "Leftward axis"], "doubts"),
        (["Sinus rhythm", "Possible inferior infarct", "Abnormal ECG"], "doubts"),
    ],
)
def test_without_a_certain_finding_there_is_no_answer(statements, said):
    with pytest.raises(DataError, match=said):
        ecg_statements.classes(statements)


def test_every_code_of_the_table_is_one_of_the_snomed_table():
    codes = set(read.column("ecg_snomed", "code", "label"))
    for row in read.rows(ecg_statements.TABLE):
        assert row["code"] in codes | {"", "NORM", "abnormal", "uncertain"}, row
        assert row["source"] in ("seen", "own")
    assert set(read.column("ecg_snomed", "code", "label").values()) <= set(ecg.CLASSES)
