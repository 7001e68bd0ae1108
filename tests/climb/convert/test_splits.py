"""Splits of converted data sets."""

from qoq_jax.climb import qa
from qoq_jax.climb.convert import splits
from qoq_jax.climb.convert.example import Example
from qoq_jax.data.labels import listed_labels


def examples(count, split="", each=1):
    """`each` examples of `count` patients."""
    return [
        Example(f"{split}{i}-{j}", ("a",), f"{split}{i}", split)
        for i in range(count)
        for j in range(each)
    ]


def shares(assigned):
    found = list(assigned.values())
    return {split: found.count(split) / len(found) for split in set(found)}


def test_without_a_split_of_the_source_a_fifth_is_for_testing():
    found = shares(splits.assign(examples(4000), "set", 0))
    assert abs(found["test"] - 0.2) < 0.02
    assert abs(found["validation"] - 0.1) < 0.02


def test_a_patient_is_in_one_split():
    assigned = splits.assign(examples(200, each=3), "set", 0)
    by_patient = {}
    for identity, split in assigned.items():
        by_patient.setdefault(identity.partition("-")[0], set()).add(split)
    assert all(len(found) == 1 for found in by_patient.values())


def test_the_split_of_the_source_is_kept_and_validation_carved_from_training():
    given = examples(1000, "train") + examples(200, "test")
    assigned = splits.assign(given, "set", 0)
    assert all(assigned[e.id] == "test" for e in given if e.split == "test")
    carved = [e for e in given if e.split == "train" and assigned[e.id] == "validation"]
    assert 60 < len(carved) < 140
    whole = [*given, Example("v", ("a",), "v", "validation")]
    assert list(splits.assign(whole, "set", 0).values()).count("validation") == 1


def test_a_patient_whom_the_source_has_twice_goes_to_test():
    both = [Example("a", ("x",), "p", "test"), Example("b", ("x",), "p", "train")]
    assert splits.assign(both, "set", 0) == {"a": "test", "b": "test"}


def test_a_patient_stays_when_others_come():
    few, many = (splits.assign(examples(n), "set", 3) for n in (50, 500))
    assert all(many[identity] == split for identity, split in few.items())
    assert few != splits.assign(examples(50), "set", 4)


def test_fingerprint_is_of_the_assignment_and_not_of_its_order():
    assert splits.fingerprint({"a": "train", "b": "test"}) == splits.fingerprint(
        {"b": "test", "a": "train"}
    )
    assert splits.fingerprint({"a": "train"}) != splits.fingerprint({"a": "test"})


def test_questions_list_all_labels_in_an_order_of_their_own():
    labels = ("A", "B", "C", "D")
    asked = [
        qa.problem(qa.Question("a scan", many=many), labels, "<image>", 0, f"{i}")
        for i in range(40)
        for many in (False, True)
    ]
    assert all(text.startswith("<image>") for text in asked)
    assert all(set(listed_labels(text)) == set(labels) for text in asked)
    assert len({listed_labels(text) for text in asked}) > 10
    assert asked == [
        qa.problem(qa.Question("a scan", many=many), labels, "<image>", 0, f"{i}")
        for i in range(40)
        for many in (False, True)
    ]
