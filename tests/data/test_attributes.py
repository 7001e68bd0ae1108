"""Attributes of rows are coarse, and never identifiers."""

import json

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.data import attributes, check
from qoq_jax.data import rows as schema

ROW = {"id": "r1", "patient": "clinic-7", "domain": "ct", "problem": "What?", "answer": "a"}


def parsed(**given):
    return schema.validate_row(ROW | {"attributes": given}, "f:1")


def test_a_row_with_attributes_and_its_round_trip():
    row = parsed(site="hospital B", sex="female", age_band="51-75", device="portable")
    assert row.attributes[:2] == (("sex", "female"), ("age_band", "51-75"))
    assert schema.validate_row(json.loads(json.dumps(row.to_dict())), "f:1") == row
    as_texts = [f"{name}={value}" for name, value in row.attributes]
    assert schema.validate_row(ROW | {"attributes": as_texts}, "f:1") == row
    assert "attributes" not in schema.validate_row(ROW, "f:1").to_dict()


@pytest.mark.parametrize("band", ["0-25", "76+", "90+", "85-89", "18-64"])
def test_bands(band):
    assert parsed(age_band=band).attributes == (("age_band", band),)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"age_bnd": "40"}, "did you mean 'age_band'"),
        ({"sex": "F"}, "none of female, male, other"),
        ({"age_band": "61"}, "no band"),
        ({"age_band": "61-62"}, "no band"),
        ({"age_band": "91+"}, "no band"),
        ({"age_band": "80-95"}, "no band"),
        ({"site": "clinic-7"}, "identifier"),
        ({"site": "ward of 2020-01-30"}, "identifier"),
        ({"device": "serial 12345"}, "identifier"),
        ({"device": 3}, "no short text"),
    ],
)
def test_what_is_refused(given, match):
    with pytest.raises(DataError, match=match) as error:
        parsed(**given)
    for value in given.values():  # an identifier does not go into the message
        if match == "identifier":
            assert str(value) not in str(error.value)


def test_validate_refuses_an_attribute_of_too_many_values(tmp_path, capsys):
    count = attributes.MOST_VALUES + 1
    rows = [ROW | {"id": f"r{i}", "attributes": {"site": f"site {i}"}} for i in range(count)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert check.run(str(tmp_path / "rows.jsonl")) == 1
    assert f"site has {count} values" in capsys.readouterr().out
