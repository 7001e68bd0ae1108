"""Published sets of visual question answering -> questions, from their files as released.

Tables are read by the names of their columns. Parquet files are read a few rows at a time, so that
pictures inside of them are in memory only while they are asked about.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.convert.folder import Folder
from qoq_jax.evaluation.tasks.question import LETTERS, Question, lettered

_RAD_JSON, _RAD_IMAGES = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"
_SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
_PICTURE_MARK = re.compile(r"<image (\d+)>")
_BATCH = 64  # rows of a Parquet file in memory at once


def vqa_rad(root: str) -> Iterator[Question]:
    """The 451 test questions: of Hugging Face's Parquet, or of the original JSON, where
    `phrase_type` begins with "test".
    """
    path = os.path.join(root, _RAD_JSON)
    if not os.path.isfile(path):
        yield from _asked_parquet(root)
        return
    for number, item in enumerate(items(path)):
        where = f"{path}, item {number}"
        if not text_of(item, "phrase_type", where).startswith("test"):
            continue
        image = os.path.join(root, _RAD_IMAGES, text_of(item, "image_name", where))
        words = (text_of(item, "question", where), text_of(item, "answer", where))
        yield _asked(text_of(item, "qid", where), *words, image, os.path.basename(image))


def path_vqa(root: str) -> Iterator[Question]:
    """PathVQA's test split, from Hugging Face's Parquet."""
    yield from _asked_parquet(root)


def slake(root: str) -> Iterator[Question]:
    """SLAKE's English test questions; closed ones ask yes or no, or for a word."""
    path = os.path.join(root, "test.json")
    for number, item in enumerate(items(path)):
        where = f"{path}, item {number}"
        if text_of(item, "q_lang", where) != "en":
            continue
        name, answer = text_of(item, "img_name", where), text_of(item, "answer", where)
        closed = "yes_no" if answer.lower() in ("yes", "no") else "short"
        yield Question(
            id=text_of(item, "qid", where),
            kind="open" if text_of(item, "answer_type", where) == "OPEN" else closed,
            text=text_of(item, "question", where),
            answers=(answer,),
            images=(os.path.join(root, "imgs", name),),
            group=name.partition("/")[0],
        )


def pmc_vqa(root: str) -> Iterator[Question]:
    """PMC-VQA version 2: options as published, "A:..."; the answer is a letter."""
    folder = Folder(root)
    for number, cells in enumerate(folder.table("test_2.csv")):
        line = {name.lower(): value for name, value in cells.items()}
        where = os.path.join(root, folder.place)
        options = tuple(text_of(line, f"choice {letter}", where) for letter in "abcd")
        answer = line.get("answer_label") or text_of(line, "answer", where)
        name = text_of(line, "figure_path", where)
        image = next(
            filter(os.path.isfile, (os.path.join(root, d, name) for d in ("figures", "images"))),
            os.path.join(root, "figures", name),
        )
        yield Question(
            id=str(line.get("index") or number),
            kind="choice",
            text=text_of(line, "question", where),
            answers=(_gold_letter(answer, len(options), where),),
            options=options,
            images=(image,),
            group=name,
        )


def omnimedvqa(root: str) -> Iterator[Question]:
    """The open-access part; the answer is the text of an option."""
    for path in found(os.path.join(root, "QA_information", "Open-access", "*.json")):
        for number, item in enumerate(items(path)):
            where = f"{path}, item {number}"
            options = [str(item[f"option_{x}"]) for x in "ABCD" if item.get(f"option_{x}")]
            answer = text_of(item, "gt_answer", where)
            if answer not in options:
                raise DataError("gt_answer is none of the options", where=where)
            image = text_of(item, "image_path", where)
            yield Question(
                id=text_of(item, "question_id", where),
                kind="choice",
                text=text_of(item, "question", where),
                answers=(LETTERS[options.index(answer)],),
                options=lettered(options),
                images=(os.path.join(root, image),),
                group=image,
            )


def medxpertqa(root: str) -> Iterator[Question]:
    """The multimodal test questions."""
    path = os.path.join(root, "MM", "test.jsonl")
    for number, item in enumerate(items(path)):
        where = f"{path}, line {number + 1}"
        options, images = item.get("options"), item.get("images")
        if not isinstance(options, dict) or not isinstance(images, list):
            raise DataError("needs options as an object and images as a list", where=where)
        given = [str(options[letter]) for letter in sorted(options)]
        yield Question(
            id=text_of(item, "id", where),
            kind="choice",
            text=text_of(item, "question", where),
            answers=(_gold_letter(text_of(item, "label", where), len(given), where),),
            options=lettered(given),
            images=tuple(os.path.join(root, "images", str(name)) for name in images),
            group=str(images[0]) if images else "",
        )


def mmmu(root: str) -> Iterator[Question]:
    """The validation questions of Health and Medicine; pictures in the order of their numbers."""
    for subject in _SUBJECTS:
        for path in found(os.path.join(root, subject, "validation-*.parquet")):
            for item in _parquet(path):
                where = f"{path}, {item.get('id')}"
                options = listed(text_of(item, "options", where), where)
                text = text_of(item, "question", where)
                named = {int(n) for n in _PICTURE_MARK.findall(" ".join([text, *options]))}
                pictures = [item.get(f"image_{number}") for number in sorted(named or {1})]
                answer = text_of(item, "answer", where)
                choice = text_of(item, "question_type", where) == "multiple-choice"
                gold = (
                    _gold_letter(answer, len(options), where)
                    if choice
                    else (listed(answer, where)[0] if answer.startswith("[") else answer)
                )
                yield Question(
                    id=text_of(item, "id", where),
                    kind="choice" if choice else "short",
                    text=text,
                    answers=(gold,),
                    options=lettered(options) if choice else (),
                    images=tuple(_bytes(one, where) for one in pictures if one),
                )


# ------------------------------------------------------------------------------------------ helpers


def _asked_parquet(root: str) -> Iterator[Question]:
    """Rows of (image, question, answer); an id is the row's number, a group the picture's hash."""
    number = 0
    for path in found(os.path.join(root, "data", "test-*.parquet")):
        for item in _parquet(path):
            where = f"{path}, row {number}"
            content = _bytes(item.get("image"), where)
            digest = hashlib.sha256(content).hexdigest()[:16]
            words = (text_of(item, "question", where), text_of(item, "answer", where))
            yield _asked(str(number), *words, content, digest)
            number += 1


def _asked(identity: str, text: str, answer: str, image: str | bytes, group: str) -> Question:
    """Closed where the answer is yes or no, as MedEvalKit tells them apart."""
    kind = "yes_no" if answer.strip().lower() in ("yes", "no") else "open"
    return Question(identity, kind, text, (answer.strip(),), images=(image,), group=group)


def _parquet(path: str) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet files need the package pyarrow", hint='pip install "qoq_jax[datasets]"'
        ) from error
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        what = str(error).splitlines()[0][:200]
        raise DataError(f"cannot be read: {what}", where=path, hint="fetch it again") from error


def items(path: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON list, or of JSON lines."""
    if path.endswith(".jsonl"):
        try:
            with open(path, encoding="utf-8") as file:
                found = [json.loads(line) for line in file if line.strip()]
        except FileNotFoundError:
            raise _missing(path) from None
        except ValueError as error:
            raise DataError(f"is not JSON lines: {error}", where=path) from error
    else:
        if not os.path.isfile(path):
            raise _missing(path)
        found = files.read_json(path, finite=False, hint="fetch the file again")
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError("is no list of objects", where=path, hint="fetch the file again")
    return iter(found)


def found(pattern: str) -> list[str]:
    names = sorted(glob.glob(pattern))
    if not names:
        raise _missing(pattern)
    return names


def _missing(path: str) -> DataError:
    return DataError(
        "is not there", where=path, hint="qoq evaluate --list-tasks says what a task's folder holds"
    )


def text_of(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int, float))
        or not str(value).strip()
    ):
        raise DataError(f"{name} is missing or no text", where=where, hint="fetch the file again")
    return str(value).strip()


def _gold_letter(text: str, count: int, where: str) -> str:
    letter = text.strip().upper()[:1]
    if letter not in LETTERS[:count] or len(text.strip().partition(":")[0]) != 1:
        raise DataError(f"the answer {text[:40]!r} is the letter of no option", where=where)
    return letter


def listed(text: str, where: str) -> list[str]:
    """A list as Python writes it."""
    try:
        found = ast.literal_eval(text[:65536])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise DataError("options or answer is no list in text", where=where)
    return [str(one) for one in found]


def _bytes(picture: Any, where: str) -> bytes:
    content = picture.get("bytes") if isinstance(picture, dict) else None
    if not isinstance(content, bytes):
        raise DataError("holds no bytes of a picture", where=where, hint="fetch the file again")
    return content
