"""Draws of a few samples, and the transfer from each start."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.transfer import few_shot, run


def drawn(sets, name="skin", shots=3, number=0, seed=0):
    split = sets[name].splits["train"]
    return split, few_shot.draw(split, shots, seed, number, name)


def test_a_draw_has_as_many_samples_of_each_label_each_of_another_patient(sets):
    split, picked = drawn(sets)
    assert split.gold[picked].sum(axis=0).tolist() == [3, 3]
    assert len(np.unique(split.patients[picked])) == len(picked) == 6


def test_a_label_with_fewer_patients_gives_what_it_has(sets):
    split, picked = drawn(sets, shots=1000)
    assert len(picked) == len(np.unique(split.patients)) == 12


def test_a_draw_of_fewer_shots_is_part_of_one_of_more(sets):
    one, three = (set(drawn(sets, shots=shots)[1].tolist()) for shots in (1, 3))
    assert one < three


def test_draws_differ_by_number_and_seed_and_repeat_themselves(sets):
    found = [tuple(drawn(sets, number=n, seed=s)[1]) for n, s in ((0, 0), (1, 0), (0, 1), (0, 0))]
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_no_drawn_patient_is_in_the_test_split(sets):
    split, picked = drawn(sets, shots=12)
    assert not set(split.patients[picked]) & set(sets["skin"].splits["test"].patients)


def test_a_start_that_was_trained_on_the_target_is_refused(sets):
    with pytest.raises(DataError, match="the target skin is among the sets"):
        few_shot.check_unseen(sets["skin"], [sets["chest"], sets["skin"]])


def test_a_target_without_a_test_split_is_refused(sets):
    train = {"train": sets["skin"].splits["train"]}
    with pytest.raises(DataError, match="the target has no test split"):
        few_shot.check_unseen(dataclasses.replace(sets["skin"], splits=train), [sets["chest"]])


def test_patients_that_another_set_names_too_are_told(sets):
    copy = dataclasses.replace(sets["skin"], name="renamed")
    (note,) = few_shot.check_unseen(sets["skin"], [sets["chest"], copy])
    assert note == "20 patients of skin have the ids of patients of renamed"


def test_the_one_source_is_the_largest_near_one(sets):
    near = dataclasses.replace(sets["chest"], domain="ultrasound")
    assert few_shot.source_of(sets["heart"], [sets["skin"], near]).domain == "ultrasound"
    assert few_shot.source_of(sets["heart"], [sets["chest"], sets["skin"]]).name == "skin"
    named = few_shot.source_of(sets["heart"], [sets["chest"], sets["skin"]], "chest")
    assert named.name == "chest"
    with pytest.raises(ConfigError, match="few.source = 'skin'"):
        few_shot.source_of(sets["skin"], list(sets.values()), "skin")


def test_a_run_transfers_from_each_start_and_goes_on_where_it_was(configured, sets, tmp_path):
    few = {"shots": (1, 3), "draws": 2, "steps": 3}
    cfg = configured(workdir=str(tmp_path), target="skin", few=few)
    assert run.run_on(cfg, sets) == 0
    facts = json.loads(pathlib.Path(tmp_path, "sets.json").read_text())
    assert set(facts["trained_on"]) == {"chest", "heart"}
    path = pathlib.Path(tmp_path, few_shot.FILE)
    lines = path.read_text().splitlines(keepends=True)
    keys = {tuple(json.loads(line).values())[:4] for line in lines}
    assert len(lines) == len(keys) == 3 * 2 * 2 * 2
    assert all(0 <= json.loads(line)["auroc"] <= 1 for line in lines)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while the last line was written
    assert run.run_on(cfg, sets) == 0
    assert path.read_text().splitlines(keepends=True) == lines
