"""One run as one, two and four processes on the same four devices: the same bits.

benchmarks/many_hosts.py is the long form.
"""

from __future__ import annotations

import json

import pytest
from helpers import processes

from qoq_jax.train.batches import WholeData

LIMIT = 900.0  # seconds: what hangs fails
REWARD = {"accuracy": 0.0, "iou": 0.0, "format": 0.0, "custom": "helpers.train:rare_reward"}
PARTS = {
    "drpo": {"stage": "rl", "algorithm": "drpo", "steps": 3, "evaluate": True},
    "refill": {
        "stage": "rl",
        "algorithm": "dapo",
        "steps": 2,
        "max_refills": 2,
        "reward": REWARD,
    },
    "critic": {
        "stage": "rl",
        "algorithm": "ppo",
        "steps": 2,
        "minibatches": 2,
        "epochs": 2,
        "data": {"media_rows": 8},
        "sft": {"rows": 8},
    },
    # slots with refill, greedy baselines, validation with the best weights kept
    "slots": {
        "stage": "rl",
        "algorithm": "remax",
        "steps": 2,
        "rollout_rows": 8,
        "eval": {"every": 1, "best": True, "validation_rows": 2},
    },
    "sft": {"stage": "sft", "steps": 2},
    # four processes, of which two hold the same rows
    "tensor": {
        "stage": "rl",
        "algorithm": "grpo",
        "steps": 1,
        "evaluate": True,
        "mesh": {"data": 2, "fsdp": 1, "tensor": 2},
    },
}
SEVERAL = {"tensor": 4}  # processes; else two


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Part -> its results as one process and as several; "again": those of a run of which two
    processes do the first step, four the second, one the third.

    Processes of one number do all their parts in one start, which costs more than a part.
    """
    folder = tmp_path_factory.mktemp("many-hosts")
    again = PARTS["drpo"] | {"name": str(folder / "again")}
    found = {}
    for count, until in ((2, 1), (4, 2), (1, None)):
        parts = {
            name: part | {"name": name}
            for name, part in PARTS.items()
            if count in (1, SEVERAL.get(name, 2))
        }
        parts["again"] = again | {"until": until}
        workdir = folder / str(count)
        workdir.mkdir()
        arguments = ["-m", "helpers.many_hosts", str(workdir), json.dumps(list(parts.values()))]
        processes.run(arguments, count, 4 // count, LIMIT, str(folder / "compiled"))
        made = json.loads((workdir / "result.json").read_text())
        for name, result in zip(parts, made, strict=True):
            found.setdefault(name, []).insert(0, result)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_several_processes_reach_the_bits_of_one(results, part):
    one, two = results[part]
    assert one["rows"] == two["rows"]
    assert one["weights"] == two["weights"]
    assert one["evaluation"] == two["evaluation"]


@pytest.mark.slow
def test_the_refill_has_left_groups_out_and_filled_their_places(results):
    rows = results["refill"][1]["rows"]
    assert any(row["dapo/refills"] > 0 and row["dapo/informative"] < 1 for row in rows)


@pytest.mark.slow
def test_all_rows_are_evaluated_once_in_order(results):
    one, two = (result["evaluation"]["records"] for result in results["drpo"])
    assert len(two) == len({record["id"] for record in two}) == 20
    assert [record["id"] for record in one] == [record["id"] for record in two]


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(results):
    last, whole = results["again"][0], results["drpo"][0]
    assert last["weights"] == whole["weights"]
    assert last["evaluation"] == whole["evaluation"]
    assert [row["reward/total"] for row in last["rows"]] == [
        row["reward/total"] for row in whole["rows"]
    ]


class Data:
    """A data iterator that has left samples out."""

    def __init__(self, bad: dict[str, str]):
        self.quarantined, self.ecg_lengths, self.limit = bad, {}, 3

    def check_limit(self, quarantined):
        assert len(quarantined) <= self.limit


class TwoShares:
    """Stands for two processes: this one, and one that tells what it is given."""

    def __init__(self, other: list[dict[str, str]]):
        self.other, self.told = other, []

    def join(self, name, mine):
        self.told.append(mine)
        return [mine, self.other.pop(0)]


def test_skipped_samples_of_all_processes_count_and_each_is_told_once():
    data, share = Data({"a": "torn"}), TwoShares([{"b": "grey"}, {}, {"a": "torn", "c": "x"}])
    whole = WholeData(data, share)
    assert whole.quarantined == {"a": "torn", "b": "grey"}
    assert whole.quarantined == {"a": "torn", "b": "grey"}
    data.quarantined["d"] = "late"
    data.limit = 4
    assert set(whole.quarantined) == {"a", "b", "c", "d"}
    assert share.told == [{"a": "torn"}, {}, {"d": "late"}]
