"""The CLIMB-QA row: one question about one patient's media, as one JSON line.

A row file is JSON lines (or one JSON list), plain or gzip. Three spellings are read, and all
become the same `Row`:
  - our own (the fields of `Row`; the time series field is spelled "time-series" in JSON);
  - the released CLIMB-QA fields: problem, answer, images, videos, time-series, dataset, bbox,
    segmentation_path;
  - conversations: {"images": [...], "conversations": [{"from": "human", ...}, {"from": "gpt",
    ...}]}.
A row that breaks a rule is a `DataError` that names file, row and field; nothing is guessed,
repaired or replaced.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from qoq_jax.base import files
from qoq_jax.base.errors import DataError, did_you_mean
from qoq_jax.data import attributes as attribute_rules
from qoq_jax.data import media, row_files
from qoq_jax.data.labels import listed_labels, split_labels
from qoq_jax.data.paths import is_inside, split_member

# A domain's place is its number in DRPO's history and in indexes: new ones go to the end.
DOMAINS = (
    "ecg",
    "chest_xray",
    "mammography",
    "dermoscopy",
    "fundus",
    "pathology",
    "ct",
    "mri",
    "ultrasound",
    "multimodal",
    "endoscopy",
)
SPLITS = ("train", "validation", "test")

# Released rows name a dataset but no domain.
_DATASET_DOMAINS = {
    "ecg": "ptb-xl ptbxl chapman chapman-shaoxing georgia ga cpsc cpsc2018",
    "chest_xray": "mimic-cxr chexpert chexpert_full vindr vindr-cxr covid19 covid-19 coronahack",
    "mammography": "vindr-mammo vindrmammo cbis cbis-ddsm cmmd",
    "dermoscopy": "isic2020 isic-2020 ham10000 pad_ufes_20 pad-ufes-20",
    "fundus": "messidor2 messidor-2 aptos aptos2019 jichi",
    "pathology": "lc25000 bcss",
    "ct": "lndb inspect kits23 hemorrhage rspect",
    "mri": "brain_tumor brain-tumor brain_tumor_2 brain-tumor-2",
    "ultrasound": "echonet-dynamic busi covid-blues covid_blues covid-us covid_us",
    "multimodal": "mimic-iv vital",
    "endoscopy": "cholec80",
}
DATASET_DOMAIN = {
    name: domain for domain, names in _DATASET_DOMAINS.items() for name in names.split()
}

_ANNEX = f"{os.sep}annex{os.sep}objects{os.sep}"
_MAX_PIXEL = 1e6  # no medical image is wider; larger coordinates are a mistake in units
_MEDIA_FIELDS = (("images", "<image>"), ("videos", "<video>"), ("time_series", "<ecg>"))


@dataclasses.dataclass(frozen=True)
class Row:
    """One validated row. Tuples instead of lists, so that rows hash and can be shared between
    workers.

    Attributes:
      id: unique in its file.
      dataset, domain: where it comes from; domain is one of `DOMAINS`.
      problem: the whole question with the allowed labels; "<image>", "<video>", "<ecg>" mark where
        media go.
      answer: the gold label; several are joined by ", ". `answers` has them one by one.
      labels: the allowed vocabulary; () when the row states none.
      patient, split: splits never share a patient.
      images, videos, time_series: media paths relative to the folder of the row file.
      bbox: (x1, y1, x2, y2) boxes in absolute pixels of the original image.
      bbox_labels: () or one label per box.
      bbox_images: the picture of each box, counted from 0 over images, then videos; () = the first.
      segmentation_path: mask of the finding, or None.
      difficulty: 1 (easy) to 3, or None.
      reasoning: the text inside <think> for the warm start, or None.
      source: "climb-mini", "real", or what the file says.
      attributes: (name, value) pairs for fairness by subgroup, coarse; see attributes.py.
    """

    id: str
    dataset: str
    domain: str
    problem: str
    answer: str
    labels: tuple[str, ...] = ()
    patient: str = ""
    split: str = ""
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    time_series: tuple[str, ...] = ()
    bbox: tuple[tuple[float, float, float, float], ...] = ()
    bbox_labels: tuple[str, ...] = ()
    bbox_images: tuple[int, ...] = ()
    segmentation_path: str | None = None
    difficulty: int | None = None
    reasoning: str | None = None
    source: str = ""
    attributes: attribute_rules.Attributes = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The gold label set, each spelled as in `labels`."""
        return split_labels(self.answer, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; empty optional fields are left out.

        `validate_row` reads it back to an equal row.
        """
        out = {}
        for name in _NAMES:
            value = getattr(self, name)
            if (
                value is None
                or value == ()
                or (value == "" and name in ("patient", "split", "source"))
            ):
                continue
            if name == "attributes":
                value = dict(value)
            elif isinstance(value, tuple):
                value = [list(item) if isinstance(item, tuple) else item for item in value]
            out["time-series" if name == "time_series" else name] = value
        return out


_NAMES = tuple(field.name for field in dataclasses.fields(Row))
_FIELDS = tuple("time-series" if name == "time_series" else name for name in _NAMES)


# --------------------------------------------------------------------------------------- validation


def validate_row(obj: Any, where: str) -> Row:
    """Checks one decoded JSON object and returns it as a `Row`.

    Args:
      obj: the object; see the module docstring for the accepted spellings.
      where: what to call it in errors, e.g. "train.jsonl:12".

    Raises:
      DataError: naming `where` and the field, with a hint.
    """
    if not isinstance(obj, dict):
        _fail(
            where,
            f"a row must be a JSON object, found {type(obj).__name__}",
            "write one {...} a line",
        )
    obj = _unify(dict(obj), where)
    _check_text(obj, where)
    for name in obj:
        if name not in _FIELDS:
            _fail(
                where,
                f"unknown field {_show(name)}",
                did_you_mean(name, _FIELDS, "known fields: " + ", ".join(_FIELDS)),
            )

    def text(name: str, default: str | None = None) -> str:
        value = obj.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            state = (
                "is missing"
                if value is None
                else f"must be a text that is not empty, found {_show(value)}"
            )
            _fail(f"{where}: {name}", state, f'give "{name}": "..."')
        return value

    problem = text("problem")
    answer = obj.get("answer")
    if isinstance(answer, list):
        answer = ", ".join(_texts(answer, f"{where}: answer"))
        obj["answer"] = answer
    answer = text("answer").strip()
    labels = _vocabulary(obj, problem, answer, where)
    split = text("split", "")
    if split and split not in SPLITS:
        _fail(f"{where}: split", f"unknown split {_show(split)}", "use " + ", ".join(SPLITS))
    media = _media(obj, problem, where)
    regions = _regions(obj, media, where)
    difficulty = _difficulty(obj, where)
    dataset = text("dataset", "")
    domain = text("domain", "") or _domain_of(dataset, sum(media.values(), ()), where)
    if domain not in DOMAINS:
        _fail(
            f"{where}: domain",
            f"unknown domain {_show(domain)}",
            did_you_mean(domain, DOMAINS, "use one of " + ", ".join(DOMAINS)),
        )
    identity, patient = obj.get("id"), text("patient", "")
    identity = str(identity) if type(identity) is int else text("id", where)
    return Row(
        id=identity,
        dataset=dataset or domain,
        domain=domain,
        problem=problem,
        answer=answer,
        labels=labels,
        patient=patient,
        split=split,
        **media,
        **regions,
        difficulty=difficulty,
        reasoning=text("reasoning", "") or None,
        source=text("source", ""),
        attributes=attribute_rules.parse(
            obj.get("attributes"), f"{where}: attributes", {identity, patient}
        ),
    )


def _vocabulary(obj: dict, problem: str, answer: str, where: str) -> tuple[str, ...]:
    """The allowed labels, which must hold those of the answer; () when the row states none."""
    labels = _texts(obj.get("labels"), f"{where}: labels") or listed_labels(problem)
    if len(set(labels)) != len(labels):
        _fail(f"{where}: labels", "a label is listed twice", "list each label once")
    wrong = (
        [label for label in split_labels(answer, labels) if label not in labels] if labels else []
    )
    if wrong:
        _fail(
            f"{where}: answer",
            f"{_show(wrong[0])} is not among the labels",
            did_you_mean(wrong[0], labels, "allowed: " + _show(", ".join(labels), 200)),
        )
    return labels


def _media(obj: dict, problem: str, where: str) -> dict[str, tuple[str, ...]]:
    """Paths by field of `Row`, as many as the problem has marks for them."""
    media = {}
    for name, mark in _MEDIA_FIELDS:
        field = "time-series" if name == "time_series" else name
        media[name] = tuple(
            _path(p, f"{where}: {field}") for p in _texts(obj.get(field), f"{where}: {field}")
        )
        marks = problem.count(mark)
        if marks and marks != len(media[name]):
            _fail(
                f"{where}: {field}",
                f"{len(media[name])} files for {marks} {mark} in the problem text",
                f"write one {mark} a file, or none to put media first",
            )
    return media


def _regions(obj: dict, media: dict[str, tuple[str, ...]], where: str) -> dict[str, Any]:
    """Boxes and mask by field of `Row`."""
    segmentation = obj.get("segmentation_path") or None
    bbox = _boxes(obj.get("bbox"), f"{where}: bbox")
    bbox_labels = _texts(obj.get("bbox_labels"), f"{where}: bbox_labels")
    if bbox_labels and len(bbox_labels) != len(bbox):
        _fail(
            f"{where}: bbox_labels",
            f"{len(bbox_labels)} labels for {len(bbox)} boxes",
            "give one label per box",
        )
    bbox_images = _pictures(
        obj.get("bbox_images"), len(bbox), len(media["images"] + media["videos"]), where
    )
    if (bbox or segmentation) and not (media["images"] or media["videos"]):
        _fail(
            f"{where}: bbox",
            "a region without an image or video",
            "add the image or drop the region",
        )
    return {
        "bbox": bbox,
        "bbox_labels": bbox_labels,
        "bbox_images": bbox_images,
        "segmentation_path": _path(segmentation, f"{where}: segmentation_path")
        if segmentation
        else None,
    }


def _difficulty(obj: dict, where: str) -> int | None:
    difficulty = obj.get("difficulty")
    if difficulty is not None and (type(difficulty) is not int or difficulty not in (1, 2, 3)):
        _fail(
            f"{where}: difficulty",
            f"must be 1, 2 or 3, found {_show(difficulty)}",
            "drop it when not known",
        )
    return difficulty


def _unify(obj: dict, where: str) -> dict:
    """Turns the other accepted spellings into ours."""
    if "time_series" in obj and "time-series" not in obj:
        obj["time-series"] = obj.pop("time_series")
    turns = obj.pop("conversations", None)
    if turns is None:
        return obj
    said = {"human": [], "gpt": []}
    for turn in turns if isinstance(turns, list) else ():
        if (
            not isinstance(turn, dict)
            or turn.get("from") not in said
            or not isinstance(turn.get("value"), str)
        ):
            said["human"] = []
            break
        said[turn["from"]].append(turn["value"])
    if len(said["human"]) != 1 or len(said["gpt"]) != 1:
        _fail(
            f"{where}: conversations",
            "needs one human and one gpt turn",
            'write [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]',
        )
    for name, value in (("problem", said["human"][0]), ("answer", said["gpt"][0])):
        if name in obj:
            _fail(f"{where}: {name}", "given beside conversations", "keep one of the two")
        obj[name] = value
    return obj


def _check_text(obj: dict, where: str) -> None:
    """Refuses half of a surrogate pair ("\\ud83d" alone): JSON can spell it, UTF-8 text cannot."""
    for name, content in obj.items():
        open_values, texts = [name, content], []
        while open_values:
            value = open_values.pop()
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, (list, tuple)):
                open_values.extend(value)
            elif isinstance(value, dict):
                open_values.extend((*value, *value.values()))
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            _fail(
                f"{where}: {name.encode('utf-8', 'backslashreplace').decode()}",
                "holds half of a surrogate pair, which is no character",
                "write the whole character, or leave it out",
            )


def _domain_of(dataset: str, paths: Sequence[str], where: str) -> str:
    for said in (dataset, *(part for path in paths[:1] for part in path.split("/"))):
        name = said.strip().lower().replace(" ", "-")
        if name in DOMAINS:
            return name
        if name in DATASET_DOMAIN:
            return DATASET_DOMAIN[name]
    return _fail(
        f"{where}: domain",
        "is missing and the dataset name does not tell it",
        "add one of " + ", ".join(DOMAINS),
    )


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value] if value.strip() else []
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(v, str) and v.strip() for v in value
    ):
        _fail(where, f"must be a list of texts, found {_show(value)}", 'write ["...", "..."]')
    return tuple(v.strip() for v in value)


def _path(value: Any, where: str) -> str:
    if not isinstance(value, str):
        _fail(
            where, f"must be a path, found {_show(value)}", "give a path relative to the row file"
        )
    parts = value.replace("\\", "/").split("/")
    if (
        "\0" in value
        or ".." in parts
        or parts[0] == ""
        or re.match(r"[A-Za-z]:", value)
        or "://" in value
    ):
        _fail(
            where,
            f"unsafe path {_show(value)}",
            "paths are relative to the folder of the row file and do not leave it",
        )
    return value


def _boxes(value: Any, where: str) -> tuple[tuple[float, float, float, float], ...]:
    if value is None or value == []:
        return ()
    if isinstance(value, list) and not isinstance(value[0], (list, tuple)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        _fail(
            where,
            f"must be a list, found {_show(value)}",
            "write [x1, y1, x2, y2] or a list of them",
        )
    boxes = []
    for box in value:
        numbers = isinstance(box, (list, tuple)) and len(box) == 4
        numbers = numbers and all(
            type(v) in (int, float) and abs(v) <= _MAX_PIXEL for v in box
        )  # NaN fails <=
        if not numbers:
            _fail(
                where,
                f"must be four finite numbers, found {_show(box)}",
                "write [x1, y1, x2, y2] in pixels",
            )
        x1, y1, x2, y2 = corners = tuple(float(v) for v in box)
        if min(corners) < 0 or x1 >= x2 or y1 >= y2:
            _fail(
                where,
                f"needs 0 <= x1 < x2 and 0 <= y1 < y2, found {_show(list(corners))}",
                "corners are [left, top, right, bottom] in pixels of the original image",
            )
        boxes.append(corners)
    return tuple(boxes)


def _pictures(value: Any, boxes: int, pictures: int, where: str) -> tuple[int, ...]:
    """The picture of each box; () when all are on the first."""
    if value is None or value == []:
        return ()
    at = f"{where}: bbox_images"
    if not isinstance(value, (list, tuple)) or len(value) != boxes:
        _fail(at, f"found {_show(value)} for {boxes} boxes", "give one number per box")
    if not all(type(v) is int and 0 <= v < pictures for v in value):
        _fail(
            at,
            f"found {_show(value)} for {pictures} images and videos",
            "count from 0 over images, then videos",
        )
    return tuple(value) if any(value) else ()


def _show(value: Any, limit: int = 80) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _fail(where: str, what: str, hint: str) -> NoReturn:
    raise DataError(what, where=where, hint=hint)


# -------------------------------------------------------------------------------------------- files


def read_jsonl(path: str | os.PathLike, faults: list[str] | None = None) -> list[Row]:
    """Reads a whole row file and validates every row; `index.open_rows` does the same without
    holding the rows.

    Args:
      path: JSON lines or one JSON list, plain or gzip.
      faults: when given, broken rows are left out and described in it; else the first one is
        raised.

    Raises:
      DataError: file missing, empty or not JSON; a broken row; an id used twice. Names the line (or
        list item).
    """
    path = pathlib.Path(path)
    rows: list[Row] = []
    seen: dict[str, str] = {}
    with row_files.opened(path) as file:
        for item in row_files.items(file, path):
            try:
                row = parse(item.content, item.where)
                if row.id in seen:
                    raise used_twice(row.id, item.where, seen[row.id])
            except DataError as error:
                if faults is None:
                    raise
                faults.append(str(error))
                continue
            seen[row.id] = item.where
            rows.append(row)
    if not rows and not faults:
        raise no_rows(path)
    return rows


def used_twice(identity: str, where: str, first: str) -> DataError:
    """A row whose id another one has."""
    return DataError(
        f"{_show(identity)} is used by {first} already",
        where=f"{where}: id",
        hint="ids are unique in a file",
    )


def no_rows(path: str | os.PathLike) -> DataError:
    """A row file without rows."""
    return DataError(
        "has no rows", where=str(path), hint="the data set is empty; build or fetch it first"
    )


def parse(content: Any, where: str) -> Row:
    """A line (bytes), or an object that JSON gave, -> a validated row; raises DataError."""
    return validate_row(
        row_files.decode(content, where) if isinstance(content, bytes) else content, where
    )


def write_jsonl(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines, whole or not at all (temporary file, then rename)."""
    try:
        with files.replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})", where=str(path), hint="free space or rights"
        ) from None


def resolve(root: str | os.PathLike, relative: str) -> pathlib.Path:
    """The path of a media file; refuses one that leaves `root`, by "..", an absolute path or a
    symlink.

    Links that stay inside (git-annex, content stores) keep the name that the row gives. The file
    need not exist: the reader that opens it says so. Only a git-annex link without content is named
    here, since its reader would call the file missing.
    """
    _path(relative, "path")
    target = os.path.join(os.path.realpath(root), relative)
    if not is_inside(target, root):
        raise DataError(
            "leads out of the data folder",
            where=relative,
            hint="copy the file into the data folder",
        )
    file, _ = split_member(target)
    if os.path.islink(file) and not os.path.exists(file) and _ANNEX in os.path.realpath(file):
        raise DataError(
            "is a git-annex link whose content is not here",
            where=relative,
            hint="fetch it with: datalad get",
        )
    return media.fetched(target)
