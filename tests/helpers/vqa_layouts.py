"""Miniature folders in the published layouts of the evaluation tasks, with what each one holds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0, size: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def put(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_text(json.dumps(content), encoding="utf-8")


def parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pa.Table.from_pylist(rows), path)


def picture(seed: int) -> dict:
    return {"bytes": png(seed), "path": None}


def write(root: Path) -> None:
    """All of them."""
    asked = [
        {"image": picture(1), "question": "is there a mass?", "answer": "Yes"},
        {"image": picture(1), "question": "where is it?", "answer": "left upper lobe"},
    ]
    parquet(root / "vqa-rad/data/test-00000-of-00001-e5bc3d208bb4deeb.parquet", asked)
    parquet(root / "path-vqa/data/test-00000-of-00003.parquet", asked[:1])
    parquet(root / "path-vqa/data/test-00001-of-00003.parquet", asked[1:])
    about = {"location": "Lung", "modality": "CT", "base_type": "vqa", "img_id": 102}
    slake = [
        ("What modality is used?", "CT", "OPEN", "en"),
        ("Is the lung healthy?", "No", "CLOSED", "en"),
        ("Which is bigger, lung or liver?", "Lung", "CLOSED", "en"),
        ("这是什么?", "肺", "OPEN", "zh"),
    ]
    put(
        root / "slake/test.json",
        [
            about
            | {"img_name": "xmlab102/source.jpg", "question": q, "answer": a, "answer_type": t}
            | {"q_lang": lang, "qid": 11934 + i}
            for i, (q, a, t, lang) in enumerate(slake)
        ],
    )
    put(root / "slake/imgs/xmlab102/source.jpg", png(2))
    put(
        root / "pmc-vqa/test_2.csv",
        "index,Figure_path,Caption,Question,Choice A,Choice B,Choice C,Choice D,Answer,split\n"
        '0,PMC1_F1.jpg,"A, b.",What is shown?, A:CT , B:MRI , C:X-ray , D:Ultrasound ,B,test\n',
    )
    put(root / "pmc-vqa/figures/PMC1_F1.jpg", png(3))
    put(
        root / "omnimedvqa/QA_information/Open-access/ACRIMA.json",
        [
            {"dataset": "ACRIMA", "question_id": "ACRIMA_0000", "question_type": "Modality"}
            | {"question": "Which modality?", "gt_answer": "Fundus Photography."}
            | {"image_path": "Images/ACRIMA/Im553.png", "modality_type": "Fundus Photography"}
            | {"option_A": "CT.", "option_B": "Fundus Photography.", "option_C": "MRI."}
        ],
    )
    put(root / "omnimedvqa/Images/ACRIMA/Im553.png", png(4))
    line = {
        "id": "MM-26",
        "question": "A man falls. What is next?\nAnswer Choices: (A) Rest (B) Cast",
        "options": {"A": "Rest", "B": "Cast"},
        "label": "B",
        "images": ["MM-26-a.jpeg", "MM-26-b.jpeg"],
        "medical_task": "Treatment",
    }
    put(root / "medxpertqa/MM/test.jsonl", json.dumps(line) + "\n")
    for name in line["images"]:
        put(root / "medxpertqa/images" / name, png(5))
    subjects = ("Basic_Medical_Science", "Clinical_Medicine", "Pharmacy", "Public_Health")
    for subject in (*subjects, "Diagnostics_and_Laboratory_Medicine"):
        row = {"id": f"validation_{subject}_1", "question": "In <image 1>, what is <image 2>?"}
        row |= {"options": "['Bone', 'Nerve']", "answer": "A", "question_type": "multiple-choice"}
        row |= {"image_1": picture(6), "image_2": picture(7), "image_3": None}
        parquet(root / f"mmmu/{subject}/validation-00000-of-00001.parquet", [row])
    _ecg_qa(root)


def _ecg_qa(root: Path) -> None:
    base = root / "ecg-qa/ecgqa/ptbxl"
    put(
        base / "answers_for_each_template.csv",
        "template_id,classes\n1,\"['no', 'not sure', 'yes']\"\n"
        "3,\"['conduction disturbance', 'hypertrophy', 'none', 'st/t change']\"\n",
    )
    kinds = [
        (1, "single-verify", ["yes"], [12662]),
        (3, "single-query", ["hypertrophy", "st/t change"], [9]),
        (1, "comparison_consecutive-verify", ["no"], [9, 12662]),
    ]
    items = [
        {"template_id": t, "question_id": i, "sample_id": i, "question_type": kind}
        | {"attribute_type": "scp_code", "question": "What is seen?", "answer": a, "ecg_id": e}
        for i, (t, kind, a, e) in enumerate(kinds)
    ]
    put(base / "paraphrased/test/00000.json", items)
    put(
        root / "ptb-xl/ptbxl_database.csv",
        "ecg_id,patient_id,age\n9,7.0,60.0\n12662,8.0,50.0\n",
    )
