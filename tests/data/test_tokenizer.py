"""The nano tokenizer, and that no row text can become a special token."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.climb.mini import build as synthetic
from qoq_jax.data import chat, tokenizer
from qoq_jax.models.sizes import NANO_FIRST_SPECIAL, NANO_VOCAB, SPECIAL_TOKENS, get

TOK = tokenizer.load("nano")


def test_vocabulary_is_1001_ordinary_then_the_special_tokens():
    assert TOK.size == NANO_VOCAB
    assert TOK.special_ids == {
        name: NANO_FIRST_SPECIAL + i for i, name in enumerate(SPECIAL_TOKENS)
    }
    assert TOK.eos_ids == get("nano").eos_ids


def test_every_coordinate_is_one_token():
    assert all(len(TOK.encode(str(n))) == 1 for n in range(256))
    assert TOK.decode(TOK.encode("[999, 256, 1000]")) == "[999, 256, 1000]"


def test_a_typical_answer_costs_less_than_thirty_tokens():
    cost = []
    for _, answer, reasoning in synthetic.corpus(120, seed=7):
        text = chat.answer_text([answer], [(12, 30, 100, 112)], [answer], reasoning)
        cost.append(len(TOK.encode(text)))
    assert sum(cost) / len(cost) < 30
    assert len(TOK.encode(chat.answer_text(["Normal"], reasoning="clear lungs"))) <= 8


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_round_trips_and_is_ordinary(text):
    ids = TOK.encode(text)
    assert TOK.decode(ids) == text
    assert all(i < NANO_FIRST_SPECIAL for i in ids)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_row_text_cannot_forge_a_special_token(name):
    text = f"hello {name}{name}\n{name}"
    assert not set(TOK.encode(text)) & set(TOK.special_ids.values())
    ids = TOK.encode_parts(
        [tokenizer.Special("<|im_start|>"), text, tokenizer.Special("<|im_end|>")]
    )
    assert [i for i in ids if i >= NANO_FIRST_SPECIAL] == [1002, 1003]
    assert TOK.decode(ids) == text


def test_adjoining_texts_are_encoded_as_one():
    assert TOK.encode_parts(["Nor", "mal"]) == TOK.encode("Normal")


def test_decode_shows_special_tokens_on_request():
    ids = [TOK.token_to_id("<|im_end|>"), *TOK.encode("a")]
    assert (TOK.decode(ids), TOK.decode(ids, skip_special=False)) == ("a", "<|im_end|>a")


def test_banned_are_all_special_tokens_but_the_ends_and_the_vocabulary_padding():
    banned = TOK.banned_ids(NANO_VOCAB + 3)
    assert set(banned) == set(range(NANO_FIRST_SPECIAL, NANO_VOCAB + 3)) - set(TOK.eos_ids)


def test_a_tokenizer_directory_without_ecg_token_gets_one_after_its_last_id(tmp_path):
    spec = json.loads(tokenizer.NANO_PATH.read_text(encoding="utf-8"))
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] != tokenizer.ECG_TOKEN]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    loaded = tokenizer.load(tmp_path)
    loaded.check({tokenizer.ECG_TOKEN: NANO_VOCAB - 1})
    with pytest.raises(ConfigError, match="has id 1023"):
        loaded.check({tokenizer.ECG_TOKEN: 151665})


def with_words(*words, **flags):
    """The nano tokenizer after add_tokens(words)."""
    spec = json.loads(tokenizer.NANO_PATH.read_text(encoding="utf-8"))
    spec["added_tokens"] += [
        {**spec["added_tokens"][-1], "id": NANO_VOCAB + i, "content": word, "special": False}
        | flags
        for i, word in enumerate(words)
    ]
    return tokenizer.Tokenizer(spec)


def test_added_words_are_whole_in_text_and_may_be_written():
    """<think> of Qwen3, and what add_tokens was given."""
    words = ("<reason>", "glioblastoma")
    found = with_words(*words)
    text = "<reason>no glioblastoma"
    ids = found.encode(text)
    assert (ids[0], ids[-1]) == (NANO_VOCAB, NANO_VOCAB + 1) and found.decode(ids) == text
    assert not set(found.banned_ids(NANO_VOCAB + 2)) & {NANO_VOCAB, NANO_VOCAB + 1}
    assert not set(words) & found.special_ids.keys()


def test_beside_added_words_special_tokens_stay_out_of_text_and_answers():
    found = with_words("<reason>")
    ids = found.encode("<|im_end|><reason><|image_pad|>")
    assert ids.count(NANO_VOCAB) == 1 and not set(ids) & set(found.special_ids.values())
    pad = found.special_ids["<|image_pad|>"]
    assert pad in found.banned_ids() and found.special_ids == TOK.special_ids


def test_added_words_that_are_special_are_banned():
    found = with_words("<|scan|>", special=True)
    assert NANO_VOCAB in found.banned_ids() and NANO_VOCAB not in found.encode("<|scan|>")


def test_control_tokens_of_qwen_that_are_not_flagged_are_special_all_the_same():
    spec = json.loads(tokenizer.NANO_PATH.read_text(encoding="utf-8"))
    for token in spec["added_tokens"]:
        token["special"] = token["content"] not in ("<tool_call>", "<|fim_prefix|>")
    found = tokenizer.Tokenizer(spec)
    assert found.special_ids == TOK.special_ids and found.banned_ids() == TOK.banned_ids()


@pytest.mark.parametrize("text", ["half an emoji \ud83d", "not UTF-8: \udcff"])
def test_a_lone_surrogate_is_an_error_of_the_text(text):
    with pytest.raises(DataError, match=r"character \d+ of a text is '.u..[38f].*UTF-8"):
        TOK.encode_parts([tokenizer.Special("<|im_start|>"), text])


def test_a_special_token_among_the_ordinary_ones_is_refused():
    spec = json.loads(tokenizer.NANO_PATH.read_text(encoding="utf-8"))
    spec["model"]["vocab"]["<|im_end|>"] = spec["model"]["vocab"].pop(
        next(iter(spec["model"]["vocab"]))
    )
    with pytest.raises(ConfigError, match="forge"):
        tokenizer.Tokenizer(spec)


def test_missing_tokenizer_and_unknown_token_and_endless_text_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the tokenizer"):
        tokenizer.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="no token"):
        TOK.token_to_id("<|nothing|>")
    with pytest.raises(DataError, match="over the limit"):
        TOK.encode("a" * (tokenizer.MAX_TEXT + 1))
