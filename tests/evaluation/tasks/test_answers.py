"""What counts as an answer."""

import pytest

from qoq_jax.evaluation.tasks import answers
from qoq_jax.evaluation.tasks.question import Question, lettered

CHOICE = Question("1", "choice", "?", ("B",), lettered(["A lung", "The liver", "None"]))


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(B) The liver", "B"),
        ("B: The liver", "B"),
        ("The liver", "B"),
        ("B. The liver.", "B"),
        ("<think>A or C.</think>\n\\boxed{B}", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("It shows much. The answer is: **B**", "B"),
        ("<answer>B</answer>", "B"),
        ("Option B", "B"),
        ("A lung", "A"),
        ("D", None),
        ("A good question", None),
        ("", None),
    ],
)
def test_letters(response, letter):
    assert answers.predicted(CHOICE, response) == ((letter,) if letter else ())


def test_nearest_answers_what_cannot_be_read():
    assert answers.predicted(CHOICE, "probably the liver here") == ()
    assert answers.nearest(CHOICE, "probably the liver here") == ("B",)
    assert answers.nearest(CHOICE, "A") == ("A",)


def test_yes_and_no_are_words():
    asked = Question("1", "yes_no", "?", ("No",))
    assert answers.predicted(asked, "No, it is normal.") == ("no",)
    assert answers.predicted(asked, "not known") == ()
    assert answers.predicted(asked, "yes or no") == ()
    assert answers.is_exact(asked, ("no",))


def test_sets():
    asked = Question("1", "set", "?", ("b, c", "d"), ("a", "b, c", "d"))
    found = answers.predicted(asked, "d, b, c")
    assert set(found) == {"d", "b, c"} and answers.is_exact(asked, found)
    assert answers.predicted(asked, "d and e") == ()


def test_words():
    assert answers.token_f1("Left upper lobe.", "the left lobe") == pytest.approx((2 / 3, 2 / 3))
    assert answers.token_f1("mass", "a mass") == pytest.approx((2 / 3, 1.0))
    assert answers.token_f1("mass", "") == (0.0, 0.0)
