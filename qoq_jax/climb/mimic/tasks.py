"""What is asked of an admission, when, and from which inputs.

The clock starts at `admittime`, when it is known that there is an admission at all: a clock that
starts at registration in the emergency department would choose patients by an admission that is
still to come. Inputs reach back to that registration.
"""

from __future__ import annotations

import dataclasses

from qoq_jax.climb.qa import Question

NAME = "mimic-iv"
DOMAIN = "multimodal"
HOUR = 3600  # seconds


@dataclasses.dataclass(frozen=True)
class Task:
    """A question about an admission.

    Attributes:
      name: in the names of data sets.
      hours: from admittime to the prediction time.
      labels: the allowed answers, in order.
      asked: what is to be named.
    """

    name: str
    hours: int
    labels: tuple[str, ...]
    asked: str

    @property
    def question(self) -> Question:
        """The words around the list of labels."""
        shown = (
            f"the record of a patient, written {self.hours} hours after admission to the hospital"
        )
        return Question(shown, self.asked)


MORTALITY_HOURS = 48
#: Bins of the length of stay, in whole days (rounded): the last day of each but the last.
LOS_BINS = ((4, "0-4 days"), (8, "5-8 days"), (12, "9-12 days"))
LOS_LAST = ">12 days"
TASKS = {
    "los": Task(
        "los",
        24,
        (*(name for _, name in LOS_BINS), LOS_LAST),
        "the length of stay in the hospital, counted from admission",
    ),
    "ihm": Task(
        "ihm",
        6,
        ("No", "Yes"),
        f"the answer to whether the patient dies in the hospital within {MORTALITY_HOURS} hours of "
        "admission",
    ),
}

#: Inputs of a question: (with the ECG, with the chest X-ray). The record's text is always there.
INPUTS = {
    "text": (False, False),
    "ecg": (True, False),
    "vision": (False, True),
    "full": (True, True),
}


def dataset(task: str, inputs: str) -> str:
    """The `dataset` of rows: mimic-iv-los-full and so on."""
    return f"{NAME}-{task}-{inputs}"


#: {data set of rows: (task, inputs)}.
DATASETS = {dataset(task, inputs): (task, inputs) for task in TASKS for inputs in INPUTS}


def length_of_stay(admitted: int, discharged: int) -> str:
    """The bin of a stay, both times in seconds: days are rounded to whole ones, half a day up."""
    days = (discharged - admitted + 12 * HOUR) // (24 * HOUR)
    return next((name for last, name in LOS_BINS if days <= last), LOS_LAST)
