"""How the nano tokenizer is made, and why the one in use is not made again."""

from __future__ import annotations

import hashlib
import json

import pytest

from qoq_jax.climb.mini import train_tokenizer
from qoq_jax.data import tokenizer
from qoq_jax.models.sizes import NANO_FIRST_SPECIAL

# Checkpoints, the golden run and the quickstart's numbers were made with these ids.
IN_USE = "c46b3f8040656535dbfd6291ec9bb518c49ec5aba8927e67718923273389f568"


@pytest.fixture(scope="module")
def texts():
    return list(train_tokenizer.corpus())


def test_training_is_deterministic_and_makes_a_full_vocabulary(texts):
    some = texts[:400] + texts[-200:]
    first, second = train_tokenizer.build(some), train_tokenizer.build(reversed(some))
    assert first == second
    assert len(first["model"]["vocab"]) == NANO_FIRST_SPECIAL


@pytest.mark.parametrize("words", [train_tokenizer.LABELS, train_tokenizer.FINDINGS])
def test_every_entry_of_the_word_lists_is_whole(texts, words):
    assert len(set(words)) == len(words)
    for entry in words:
        assert entry == " ".join(entry.split())
        assert any(entry in text for text in texts)


def test_labels_of_several_words_are_not_cut():
    cut = {"Basal", "Cell Carcinoma", "lung squamous", "cell carcinoma", "Enlarged", "Lymphocytic"}
    assert not cut & set(train_tokenizer.LABELS)
    assert {
        "Basal Cell Carcinoma",
        "lung squamous cell carcinoma",
        "Enlarged Cardiomediastinum",
        "Lymphocytic infiltrate",
    } <= set(train_tokenizer.LABELS)


def test_the_tokenizer_in_use_stays_since_another_corpus_gives_its_ids_to_other_words(texts):
    content = tokenizer.NANO_PATH.read_bytes()
    assert hashlib.sha256(content).hexdigest() == IN_USE
    used = json.loads(content)["model"]["vocab"]
    made = train_tokenizer.build(texts)["model"]["vocab"]
    assert sum(made.get(word) != index for word, index in used.items()) > 100
