"""What is logged of each domain in RL, against sums by hand."""

import collections
import types

import jax.numpy as jnp
import numpy as np
import pytest

from qoq_jax.data.packing import Placed
from qoq_jax.data.rows import DOMAINS
from qoq_jax.rl.batches import GroupBatch
from qoq_jax.train import domains

CT, ECG = DOMAINS.index("ct"), DOMAINS.index("ecg")


@pytest.fixture(scope="module")
def groups():
    """Four groups of two responses of three tokens; the last row is empty, and holds NaN."""
    rng = np.random.default_rng(0)
    mask = np.ones((4, 2, 3), np.float32)
    mask[1, 0, 2] = 0
    logprobs = -rng.random((4, 2, 3)).astype(np.float32)
    reference = -rng.random((4, 2, 3)).astype(np.float32)
    logprobs[3] = np.nan
    return GroupBatch(
        rewards=jnp.zeros((4, 2)),
        domains=jnp.array([CT, ECG, CT, 0]),
        valid=jnp.array([True, True, True, False]),
        mask=jnp.asarray(mask),
        sampler_logprobs=jnp.asarray(logprobs),
        ref_logprobs=jnp.asarray(reference),
    )


ADVANTAGES = np.array([[1.0, -1.0], [3.0, -2.0], [0.0, 0.5], [9.0, 9.0]], np.float32)


def test_sums_are_those_of_the_responses_of_each_domain(groups):
    sums = np.asarray(domains.domain_sums(groups, jnp.asarray(ADVANTAGES)))
    d = np.asarray(groups.sampler_logprobs) - np.asarray(groups.ref_logprobs)
    kl = np.exp(-d) + d - 1
    assert sums[:, CT] == pytest.approx([4, kl[[0, 2]].sum(), 3 * (1 + 1 + 0 + 0.5)], rel=1e-5)
    ecg = [2, kl[1, 0, :2].sum() + kl[1, 1].sum(), 2 * 3 + 3 * 2]
    assert sums[:, ECG] == pytest.approx(ecg, rel=1e-5)
    assert sums.sum() == pytest.approx(sums[:, [CT, ECG]].sum())


def test_entropy_is_summed_over_the_tokens_of_each_domain(groups):
    mask = np.asarray(groups.mask) * np.asarray(groups.valid)[:, None, None]
    entropy = np.random.default_rng(1).random(mask.shape).astype(np.float32) * mask
    sums = np.asarray(domains.entropy_sums(jnp.asarray(entropy), jnp.asarray(mask), groups.domains))
    assert sums[:, CT] == pytest.approx([entropy[[0, 2]].sum(), 12], rel=1e-6)
    assert sums[:, ECG] == pytest.approx([entropy[1].sum(), 5], rel=1e-6)
    assert sums.sum() == pytest.approx(sums[:, [CT, ECG]].sum())


def test_advantages_per_token_are_summed_over_tokens(groups):
    each = np.broadcast_to(ADVANTAGES[..., None], (4, 2, 3))
    np.testing.assert_allclose(
        domains.domain_sums(groups, jnp.asarray(each)),
        domains.domain_sums(groups, jnp.asarray(ADVANTAGES)),
        rtol=1e-6,
    )


def step(sums=(), entropy=(), **labels):
    """Facts of one step: {domain: numbers} of both sums, and label counts by domain."""
    return {
        domains.SUMS: _table(3, sums),
        domains.ENTROPY: _table(2, entropy),
        domains.LABELS: {
            name: domains.LabelCounts(n, collections.Counter(sampled), collections.Counter(gold))
            for name, (n, sampled, gold) in labels.items()
        },
    }


def _table(rows, columns):
    table = np.zeros((rows, len(DOMAINS)), np.float32)
    for number, values in dict(columns).items():
        table[:, number] = values
    return table


def test_a_row_divides_the_sums_of_its_steps_once():
    first = step({CT: (2, 4, 3)}, {CT: (20, 10)})
    second = step(
        {CT: (6, 4, 1), ECG: (2, 1, 4)},
        {CT: (20, 30), ECG: (5, 10)},
        ct=(10, {"A": 9, "B": 1}, {"A": 5}),
    )
    row = domains.row([first, second])
    assert row["domain/ct/entropy"] == 1.0 and row["domain/ct/kl"] == 1.0
    assert row["domain/ct/advantage_share"] == 0.5 and row["domain/ecg/advantage_share"] == 0.5
    assert row["domain/ct/top_label"] == 0.9 and "domain/ecg/top_label" not in row
    counts = {"responses": 10, "sampled": {"A": 9, "B": 1}, "gold": {"A": 5}}
    assert row["labels"] == {"ct": counts}
    assert not any(name.startswith("domain/mri") for name in row)


def test_the_loss_of_a_domain_is_the_mean_over_its_tokens_in_all_steps():
    segments = np.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]])
    placed = [(0, 1, "ct"), (0, 2, "ecg"), (1, 1, "ct")]
    samples = [Placed(types.SimpleNamespace(domain=name), b, s) for b, s, name in placed]
    found = domains.token_domains(segments, samples)
    assert found.tolist() == [[CT, CT, ECG, ECG, -1], [CT] * 5] and found.dtype == np.int32
    losses = np.arange(10, dtype=np.float32).reshape(2, 5)
    weight = np.array([[0, 1, 1, 1, 0], [0, 0, 0, 1, 1]], np.float32)
    sums = domains.loss_sums(jnp.asarray(losses), jnp.asarray(weight), jnp.asarray(found))
    row = domains.row([{domains.LOSS: sums}, {domains.LOSS: _table(2, {CT: (20.0, 2.0)})}])
    assert row == {"loss/domain/ct": (1 + 8 + 9 + 20) / 5, "loss/domain/ecg": 2.5}


def test_labels_of_two_steps_are_added():
    parts = step(ct=(2, {"A": 2}, {"A": 1, "B": 1})), step(ct=(1, {"B": 1}, {"B": 1}))
    counts = {"responses": 3, "sampled": {"A": 2, "B": 1}, "gold": {"B": 2, "A": 1}}
    assert domains.row(parts)["labels"] == {"ct": counts}


def test_a_domain_whose_groups_dapo_left_out_still_shows_its_labels():
    row = domains.row([step({CT: (2, 1, 1)}, {CT: (1, 1)}, ecg=(6, {"MI": 6}, {"CD": 6}))])
    of_ecg = {name: value for name, value in row.items() if name.startswith("domain/ecg")}
    assert of_ecg == {"domain/ecg/advantage_share": 0.0, "domain/ecg/top_label": 1.0}


def test_the_top_label_is_counted_by_responses_not_by_labels():
    both = domains.LabelCounts(10, collections.Counter({"MI": 10, "CD": 10}))
    assert both.top() == 1.0


def test_answers_beside_the_vocabulary_are_no_label_to_fall_onto():
    counts = domains.LabelCounts(10, collections.Counter({domains.OTHERS: 8, "MI": 2}))
    assert counts.top() == 0.2


def test_steps_of_other_stages_have_no_domains():
    assert domains.row([{"loss": 1.0}]) == {}


def test_labels_are_counted_as_answers_are_read():
    meta = types.SimpleNamespace(
        domain="ecg", vocabulary=("Normal", "MI", "CD"), labels=("CD", "MI")
    )
    texts = ["\\boxed{mi, CD}", "\\boxed{Elephant, Zebra}", "nothing", "\\boxed{MI}"]
    found = domains.count_labels(texts, [meta] * 4)["ecg"]
    assert found.sampled == {"MI": 2, "CD": 1, "(others)": 1, "(no answer)": 1}
    assert found.gold == {"CD": 4, "MI": 4} and found.responses == 4


def test_rare_labels_of_a_long_list_are_counted_together():
    many = {f"label {i}": 100 - i for i in range(20)}
    shown = domains.row([step(ct=(sum(many.values()), many, {}))])["labels"]["ct"]["sampled"]
    assert len(shown) == domains.MOST_LABELS + 1 and sum(shown.values()) == sum(many.values())
