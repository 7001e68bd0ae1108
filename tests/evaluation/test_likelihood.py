"""Likelihoods of labels in one pass with a shared prompt equal those of one pass per label."""

import functools
import types

import jax
import numpy as np
import pytest
from helpers.train import prompt_batch, tiny_model

from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.evaluation import likelihood, metrics
from qoq_jax.models import spec, vlm
from qoq_jax.models.logprobs import token_logprobs
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib

WIDTH = 32  # places for a response
TOKENIZER = tokenizer_lib.load("nano")
LABELS = ("Normal", "Pleural Effusion", "A. Fib/Aflutter", "Pneumonia, viral", "No")
TEXTS = {
    0: "<think>wide heart</think>\n\\boxed{Normal}",
    1: "nothing readable",
    2: "\\boxed{a} and then \\boxed{Pleural",
    3: "",
}


@pytest.fixture(scope="module")
def model():
    cfg = tiny_model()
    return cfg, spec.init_params(vlm.param_specs(cfg), jax.random.key(0))


def setup_of(cfg, mesh=None):
    sharding = None if mesh is None else mesh_lib.batch_sharding(mesh)
    return types.SimpleNamespace(
        model=cfg,
        tokenizer=TOKENIZER,
        share=hosts.WHOLE,
        put=lambda tree: tree if mesh is None else hosts.to_global(tree, sharding),
        own=jax.device_get,
    )


def prompts(cfg, rows):
    """A batch, and its samples; the last one lists no labels."""
    batch = {name: np.asarray(value) for name, value in prompt_batch(cfg, rows).items()}
    metas = [LABELS[: 2 + row] for row in range(rows - 1)] + [()]
    samples = [
        types.SimpleNamespace(
            row=row, meta=types.SimpleNamespace(vocabulary=labels, source="mini", id=str(row))
        )
        for row, labels in enumerate(metas)
    ]
    return batch, samples


@functools.partial(jax.jit, static_argnums=0)
def every(cfg, params, one):
    """Log-probability of each next token."""
    hidden = vlm.hidden(params, cfg, one)
    return token_logprobs(params["decoder"], hidden[:, :-1], one["tokens"][:, 1:])[0]


def named(texts):
    """By source and id of a row."""
    return {("mini", str(number)): text for number, text in texts.items()}


def slow(cfg, params, batch, row, text, labels):
    """log p of each label behind the response's head, each in a row of its own, from the log-
    probabilities of every token."""
    head = (text[: text.rfind("\\boxed{")] if "\\boxed{" in text else "") + "\\boxed{"
    all_ids = [TOKENIZER.encode(head + label + "}") for label in labels]
    shared = min(
        next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        for a in all_ids
        for b in all_ids
        if a != b
    )
    totals = []
    for ids in all_ids:
        one = {name: np.array(value[row : row + 1]) for name, value in batch.items()}
        end, count = int(one["segment_ids"].sum()), len(ids)
        for name, fill in (("media_index", -1), ("loss_mask", 0), ("branch_ids", 0)):
            one[name] = np.pad(one[name], [(0, 0), (0, WIDTH)], constant_values=fill)
        for name in ("tokens", "segment_ids", "positions"):
            one[name] = np.pad(one[name], [(0, 0)] * (one[name].ndim - 1) + [(0, WIDTH)])
        at = slice(end, end + count)
        one["positions"][..., at] = batch["positions"][row, :, :end].max() + 1 + np.arange(count)
        one["tokens"][:, at], one["segment_ids"][:, at] = ids, 1
        logprobs = np.asarray(every(cfg, params, one))[0, end - 1 : end - 1 + count]
        totals.append(float(logprobs[shared:].sum()))
    shares = np.exp(np.array(totals) - max(totals))
    return shares / shares.sum()


def test_one_pass_equals_one_pass_per_label(model):
    cfg, params = model
    batch, samples = prompts(cfg, 4)
    found = likelihood.scores(setup_of(cfg), params, iter([(batch, samples)]), named(TEXTS))
    assert sorted(found) == [("mini", "0"), ("mini", "1"), ("mini", "2")]
    for row in range(3):
        labels, mine = LABELS[: 2 + row], found["mini", str(row)]
        assert tuple(mine) == labels and sum(mine.values()) == pytest.approx(1)
        expected = slow(cfg, params, batch, row, TEXTS[row], labels)
        np.testing.assert_allclose(list(mine.values()), expected, rtol=2e-4)


def test_auroc_equals_that_of_one_pass_per_label(model):
    """Of six rows, the last one an unreadable response: same order of rows, so the same area."""
    cfg, params = model
    batch, samples = prompts(cfg, 8)
    labels, texts = LABELS[:3], {row: TEXTS[row % 4] for row in range(6)}
    for one in samples[:6]:
        one.meta.vocabulary = labels
    found = likelihood.scores(setup_of(cfg), params, iter([(batch, samples[:6])]), named(texts))

    def areas(scores_of):
        rows = [
            {"labels": [labels[row // 2]], "vocabulary": labels, "predicted": [], "text": ""}
            | {"scores": dict(zip(labels, scores_of(row), strict=True))}
            for row in range(6)
        ]
        made = metrics.dataset_metrics(rows)["per_label"]
        return {label: made[label]["auroc"] for label in labels}

    expected = areas(lambda row: slow(cfg, params, batch, row, texts[row], labels))
    assert areas(lambda row: found["mini", str(row)].values()) == expected
    assert len(set(expected.values())) > 1


def test_eight_devices_equal_one(model):
    cfg, params = model
    batch, samples = prompts(cfg, 8)
    texts = named({number: TEXTS[number % 4] for number in range(8)})
    one = likelihood.scores(setup_of(cfg), params, iter([(batch, samples)]), texts)
    mesh = mesh_lib.make_mesh(2, 4, 1)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, spec.shardings(vlm.param_specs(cfg), mesh))
        many = likelihood.scores(setup_of(cfg, mesh), placed, iter([(batch, samples)]), texts)
    assert one.keys() == many.keys()
    for number, scores in one.items():
        np.testing.assert_allclose(list(many[number].values()), list(scores.values()), rtol=1e-4)


def test_choices_share_what_their_tokens_share():
    made = likelihood.choices("so \\boxed{x}", ("Normal", "Normal heart"), TOKENIZER)
    assert all(made.branches) and made.branches[0] != made.branches[1]
    for branch, label in zip(made.branches, ("Normal", "Normal heart"), strict=True):
        assert TOKENIZER.decode([*made.given, *branch]) == f"so \\boxed{{{label}}}"


def test_auroc_comes_from_the_scores():
    def one(label, score):
        return {
            "labels": [label],
            "vocabulary": ["a", "b"],
            "predicted": ["a"],
            "text": "",
            "scores": {"a": score, "b": 1 - score},
        }

    rows = [one("a", 0.9), one("a", 0.4), one("b", 0.6), one("b", 0.1)]
    assert metrics.dataset_metrics(rows)["auroc"] == pytest.approx(0.75)
