"""Cholec80: the surgical phases in intervals of videos of gallbladder removals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from qoq_jax.base.errors import DataError
from qoq_jax.climb.convert.example import Converter, Dropped, Example, Found, Record, Records
from qoq_jax.climb.convert.folder import Folder, choice, whole
from qoq_jax.climb.labels.read import values
from qoq_jax.climb.qa import Question

#: Intervals of a video, as in DDVD233/CLIMB src/datasets/endoscopic/cholec.py, and frames a second.
INTERVALS, RATE = 90, 25
_VIDEO = re.compile(r"(video\d+)(\.mp4|-phase\.txt)")
#: Last videos of the training and of the validation split: 40, 8 and 32 videos, as TeCNO
#: (arXiv 2003.10751, section 3) parts the 40 and 40 of EndoNet (arXiv 1602.03012).
_TRAIN, _VALIDATION = 40, 48


def split_of(video: int) -> str:
    """The split of a video by its number."""
    if video <= _TRAIN:
        return "train"
    return "validation" if video <= _VALIDATION else "test"


def records(folder: Folder) -> Records:
    """Videos with their phases: [first frame, phase] of each change, and the number of frames."""
    videos, tables = _named(folder, "*.mp4"), _named(folder, "*-phase.txt")
    for name in sorted({*videos, *tables}):
        if name not in videos or name not in tables:
            what = "phases are" if name in videos else "video is"
            yield Dropped(name, f"its {what} not there")
            continue
        changes, frames = _changes(folder, tables[name])
        if frames < 2 * INTERVALS:
            yield Dropped(name, f"it has fewer than {2 * INTERVALS} frames with a phase")
            continue
        facts = {"video": videos[name], "changes": changes, "frames": frames}
        split = split_of(int(name.removeprefix("video")))
        yield Record(id=name, patient=name, split=split, facts=facts)


def _named(folder: Folder, pattern: str) -> dict[str, str]:
    """{"video01": its file that the pattern fits}."""
    paths = {_VIDEO.fullmatch(path.rpartition("/")[2]): path for path in folder.match(pattern)}
    return {found[1]: path for found, path in paths.items() if found}


def _changes(folder: Folder, table: str) -> tuple[list[tuple[int, str]], int]:
    """([(first frame, phase) of each change], number of frames) of a table of phases."""
    frames, changes = 0, []
    for row in folder.read_table(table, "Frame", "Phase"):
        if whole(row, "Frame") != frames:
            raise DataError(
                f"Frame is {row['Frame']}, not {frames}: a line for every frame is read",
                hint="use the published phase_annotations",
            )
        phase = choice(row, "Phase", values("cholec80"))
        if not changes or changes[-1][1] != phase:
            changes.append((frames, phase))
        frames += 1
    return changes, frames


def intervals(frames: int) -> Iterator[tuple[int, int]]:
    """(first, last) frame of each interval; all have one length but the last, which ends with the
    video.
    """
    length = frames // INTERVALS
    for number in range(INTERVALS):
        end = frames if number == INTERVALS - 1 else (number + 1) * length
        yield number * length, end - 1


def examples(record: Record, folder: Folder) -> Found:
    """One question per interval: all phases that its frames have."""
    facts = record.facts
    for number, (first, last) in enumerate(intervals(facts["frames"])):
        yield Example(
            id=f"{record.id}-{number:02d}",
            labels=_phases(facts, first, last),
            patient=record.patient,
            split=record.split,
            # From the first frame to before the last one.
            videos=(f"{facts['video']}#start={first / RATE:.2f},end={last / RATE:.2f}",),
        )


def _phases(facts: Mapping, first: int, last: int) -> tuple[str, ...]:
    """The phases of some frames, in the order of the table of values."""
    starts = [start for start, _ in facts["changes"]]
    ends = [*starts[1:], facts["frames"]]
    shown = {
        phase
        for (start, phase), end in zip(facts["changes"], ends, strict=True)
        if start <= last and end > first
    }
    return tuple(phase for phase in values("cholec80").values() if phase in shown)


CONVERTERS = (
    Converter(
        "cholec80",
        Question(
            "a part of a video of a laparoscopic cholecystectomy",
            "the phase of the operation, with all that are shown",
            many=True,
        ),
        records,
        examples,
        at_once=1,
    ),
)
