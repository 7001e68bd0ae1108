"""ECG-QA (arXiv 2306.15681) on PTB-XL -> questions: the paraphrased test split.

ECG-QA/ecgqa/ptbxl/paraphrased/test/*.json     lists of {"template_id", "sample_id", "question",
    "question_type", "answer": [...], "ecg_id": [...]}; comparisons have two ECGs
ECG-QA/ecgqa/ptbxl/answers_for_each_template.csv   template_id, classes: the allowed answers
PTB-XL/records500/12000/12662_hr.hea, ptbxl_database.csv (ecg_id, patient_id)
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.evaluation.tasks.layouts import found, items, listed, text_of
from qoq_jax.evaluation.tasks.question import Question


def ecg_qa(root: str) -> Iterator[Question]:
    """Exact sets of answers; questions about one patient are a group where PTB-XL's table is there.

    PTB-XL lies beside the root, in ptb-xl.
    """
    base = os.path.join(root, "ecgqa", "ptbxl")
    signals = os.path.join(os.path.dirname(os.path.abspath(root)), "ptb-xl")
    table = Folder(base).table("answers_for_each_template.csv", "template_id", "classes")
    allowed = {line["template_id"]: tuple(listed(line["classes"], base)) for line in table}
    patients = _patients(signals)
    for path in found(os.path.join(base, "paraphrased", "test", "*.json")):
        for number, item in enumerate(items(path)):
            where = f"{path}, item {number}"
            template, ecgs, answers = (
                item.get(name) for name in ("template_id", "ecg_id", "answer")
            )
            options = allowed.get(str(template))
            if options is None:
                raise DataError(f"no answers are listed for template {template}", where=where)
            if not isinstance(ecgs, list) or not ecgs or not isinstance(answers, list):
                raise DataError("needs ecg_id and answer as lists", where=where)
            yield Question(
                id=text_of(item, "sample_id", where),
                kind="set",
                text=text_of(item, "question", where),
                answers=tuple(map(str, answers)),
                options=options,
                ecgs=tuple(
                    os.path.join(
                        signals, "records500", f"{int(ecg) // 1000 * 1000:05d}", f"{ecg:05d}_hr.hea"
                    )
                    for ecg in ecgs
                ),
                group=patients.get(str(ecgs[0]), f"ecg {ecgs[0]}"),
            )


def _patients(signals: str) -> dict[str, str]:
    if not os.path.isfile(os.path.join(signals, "ptbxl_database.csv")):
        return {}
    rows = Folder(signals).table("ptbxl_database.csv", "ecg_id", "patient_id")
    return {row["ecg_id"]: row["patient_id"].partition(".")[0] for row in rows}
