"""The tasks that there are, as data.

find(["climb", "vqa-rad"])      # 31 tasks
find(["vqa-rd"])                # ConfigError: did you mean 'vqa-rad'?
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.catalogue import table as catalogue
from qoq_jax.climb.mimic import tasks as mimic

_MEDEVALKIT = "alibaba-damo-academy/MedEvalKit@9b12e3b utils/"


@dataclasses.dataclass(frozen=True)
class Task:
    """A set of questions.

    Attributes:
      name: of the task. folder: of its files, below the data root.
      group: another name that takes all tasks of the group.
      layout: which reader (evaluate.READERS).
      split: that is asked. metric: the first one that is shown (scores.py says what each is).
      files: what lies in the folder, as released.
      source: where this layout was read. unsure: what of it was not seen in the files themselves.
      homepage: of the set.
      version: of this entry; figures of other versions do not compare.
      dataset: of the rows that are asked, where the folder has several; "" = all.
    """

    name: str
    folder: str
    group: str
    layout: str
    split: str
    metric: str
    files: str
    source: str
    homepage: str
    unsure: str = ""
    version: int = 1
    dataset: str = ""


_VQA = (
    Task(
        "vqa-rad",
        "vqa-rad",
        "vqa",
        "vqa_rad",
        "test",
        "exact_match",
        'data/test-*.parquet (image, question, answer), or "VQA_RAD Dataset Public.json" with '
        '"VQA_RAD Image Folder/"',
        f"{_MEDEVALKIT}VQA_RAD; card of flaviagiammarino/vqa-rad on Hugging Face",
        "https://osf.io/89kps/",
        "the JSON's fields beside qid, image_name, question, answer, answer_type, phrase_type",
    ),
    Task(
        "slake",
        "slake",
        "vqa",
        "slake",
        "test",
        "exact_match",
        "test.json (img_name, question, answer, q_lang, answer_type, qid), imgs/xmlabN/source.jpg; "
        "the English questions",
        f"{_MEDEVALKIT}SLAKE; Slake1.0/test.json in xiaoman-zhang/PMC-VQA@1678ec2",
        "https://www.med-vqa.com/slake/",
    ),
    Task(
        "path-vqa",
        "path-vqa",
        "vqa",
        "path_vqa",
        "test",
        "exact_match",
        "data/test-*.parquet (image, question, answer)",
        f"{_MEDEVALKIT}PATH_VQA; flaviagiammarino/path-vqa on Hugging Face",
        "https://github.com/UCSD-AI4H/PathVQA",
    ),
    Task(
        "pmc-vqa",
        "pmc-vqa",
        "vqa",
        "pmc_vqa",
        "test",
        "acc",
        "test_2.csv (index, Figure_path, Caption, Question, Choice A to D, Answer, split), "
        "pictures in figures/ or images/",
        f"{_MEDEVALKIT}PMC_VQA; listing and card of RadGenome/PMC-VQA on Hugging Face",
        "https://github.com/xiaoman-zhang/PMC-VQA",
        "the spelling of test_2.csv's header, which readers take by position; case is ignored, and "
        "Answer_label is taken too",
    ),
    Task(
        "omnimedvqa",
        "omnimedvqa",
        "vqa",
        "omnimedvqa",
        "test",
        "acc",
        "QA_information/Open-access/*.json (question_id, question, gt_answer, option_A to D, "
        "image_path), Images/",
        f"{_MEDEVALKIT}OmniMedVQA",
        "https://huggingface.co/datasets/foreverbeliever/OmniMedVQA",
    ),
    Task(
        "medxpertqa-mm",
        "medxpertqa",
        "vqa",
        "medxpertqa",
        "test",
        "acc",
        "MM/test.jsonl (id, question, options {letter: text}, label, images), images/",
        f"{_MEDEVALKIT}MedXpertQA; card of TsinghuaC3I/MedXpertQA on Hugging Face",
        "https://github.com/TsinghuaC3I/MedXpertQA",
    ),
    Task(
        "mmmu-medical",
        "mmmu",
        "vqa",
        "mmmu",
        "validation",
        "acc",
        "SUBJECT/validation-*.parquet of the five subjects of Health and Medicine (id, question, "
        "options, answer, question_type, image_1 to image_7)",
        f"{_MEDEVALKIT}MMMU; listing of MMMU/MMMU on Hugging Face",
        "https://mmmu-benchmark.github.io/",
        "several gold answers of an open question as a list in text",
    ),
    Task(
        "ecg-qa",
        "ecg-qa",
        "ecg",
        "ecg_qa",
        "test",
        "exact_match",
        "ecgqa/ptbxl/paraphrased/test/*.json and answers_for_each_template.csv of the repository, "
        "and PTB-XL 1.0.3 in the data root's ptb-xl",
        "Jwoo5/ecg-qa@3eabbce README, answers_for_each_template.csv, mapping_ptbxl_samples.py",
        "https://github.com/Jwoo5/ecg-qa",
    ),
)
_GROUNDING = ("vindr-mammo", "hemorrhage", "bcss", "busi", "climb-mini", "real")
_ROWS = "test.jsonl and its media"


def _of_rows(name: str, group: str, homepage: str, source: str) -> Task:
    made = (name, name, group, "rows", "test", "macro_f1", _ROWS, source, homepage)
    return Task(*made)


@functools.cache
def load() -> Mapping[str, Task]:
    """All tasks by name."""
    climb = [one for one in catalogue.load().values() if one.qoq_med]
    tasks = [
        _of_rows(one.name, "climb", one.homepage, f"qoq data convert {one.name}") for one in climb
    ]
    tasks += [
        _of_rows("climb-mini", "own", "", "qoq data build"),
        _of_rows("real", "own", "", "qoq data samples"),
    ]
    for name in mimic.DATASETS:
        homepage, source = catalogue.load()[mimic.NAME].homepage, f"qoq data convert {mimic.NAME}"
        made = _of_rows(name, mimic.NAME, homepage, source)
        tasks.append(dataclasses.replace(made, folder=mimic.NAME, dataset=name))
    pages = {one.name: one.homepage for one in climb}
    for name in _GROUNDING:
        about = (_ROWS + ", the rows with a box or mask", f"rows of {name}", pages.get(name, ""))
        made = (f"grounding-{name}", name, "grounding", "regions", "test", "iou", *about)
        tasks.append(Task(*made))
    return {task.name: task for task in (*tasks, *_VQA)}


def groups() -> Mapping[str, tuple[str, ...]]:
    """The names of each group's tasks."""
    found: dict[str, list[str]] = {}
    for task in load().values():
        found.setdefault(task.group, []).append(task.name)
    return {name: tuple(tasks) for name, tasks in found.items()}


def find(words: Sequence[str]) -> list[Task]:
    """The tasks of names and groups, each once.

    Raises:
      ConfigError: a word is neither, with the nearest one.
    """
    known, grouped = load(), groups()
    names: dict[str, None] = {}
    for word in words:
        if word not in known and word not in grouped:
            near = did_you_mean(word, (*known, *grouped), "qoq evaluate --list-tasks")
            raise ConfigError(f"no task {word!r}", hint=near)
        names |= dict.fromkeys((word,) if word in known else grouped[word])
    if not names:
        raise ConfigError("no task is named", hint="qoq evaluate --list-tasks")
    return [known[name] for name in names]
