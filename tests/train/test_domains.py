"""What is logged of each domain in RL, against sums by hand."""

import collections
import types

import jax.numpy as jnp
import numpy as np
import pytest

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


def test_sums_are_those_of_the_tokens_of_each_domain(groups):
    sums = np.asarray(domains.domain_sums(groups, jnp.asarray(ADVANTAGES)))
    logprobs = np.asarray(groups.sampler_logprobs)
    d = logprobs - np.asarray(groups.ref_logprobs)
    kl = np.exp(-d) + d - 1
    rows = [0, 2]
    assert sums[:, CT] == pytest.approx(
        [4, 12, -logprobs[rows].sum(), kl[rows].sum(), 3 * (1 + 1 + 0 + 0.5)], rel=1e-5
    )
    assert sums[:2, ECG].tolist() == [2, 5] and sums[4, ECG] == pytest.approx(2 * 3 + 3 * 2)
    assert sums.sum() == pytest.approx(sums[:, [CT, ECG]].sum())


def test_advantages_per_token_are_summed_over_tokens(groups):
    each = np.broadcast_to(ADVANTAGES[..., None], (4, 2, 3))
    np.testing.assert_allclose(
        domains.domain_sums(groups, jnp.asarray(each)),
        domains.domain_sums(groups, jnp.asarray(ADVANTAGES)),
        rtol=1e-6,
    )


def test_a_row_divides_the_sums_of_its_steps_once():
    first, second = np.zeros((2, 5, len(DOMAINS)))
    first[:, CT] = [2, 10, 20, 4, 3]
    second[:, CT] = [6, 30, 20, 4, 1]
    second[:, ECG] = [2, 10, 5, 1, 4]
    counts = collections.Counter({"A": 9, "B": 1})
    labels = {"ct": {"sampled": counts, "gold": collections.Counter({"A": 5})}}
    row = domains.row([{domains.SUMS: first}, {domains.SUMS: second, domains.LABELS: labels}])
    assert row["domain/ct/entropy"] == 1.0 and row["domain/ct/kl"] == 1.0
    assert row["domain/ct/advantage_share"] == 0.5 and row["domain/ecg/advantage_share"] == 0.5
    assert row["domain/ct/top_label"] == 0.9 and "domain/ecg/top_label" not in row
    assert row["labels"] == {"ct": {"sampled": {"A": 9, "B": 1}, "gold": {"A": 5}}}
    assert not any(name.startswith("domain/mri") for name in row)


def test_steps_of_other_stages_have_no_domains():
    assert domains.row([{"loss": 1.0}]) == {}


def test_labels_are_counted_as_answers_are_read():
    meta = types.SimpleNamespace(
        domain="ecg", vocabulary=("Normal", "MI", "CD"), labels=("CD", "MI")
    )
    texts = ["\\boxed{mi, CD}", "\\boxed{Elephant}", "nothing", "\\boxed{MI}"]
    found = domains.count_labels(texts, [meta] * 4)
    assert found["ecg"]["sampled"] == {"MI": 2, "CD": 1, "(others)": 1, "(no answer)": 1}
    assert found["ecg"]["gold"] == {"CD": 4, "MI": 4}


def test_rare_labels_of_a_long_list_are_counted_together():
    counts = collections.Counter({f"label {i}": 100 - i for i in range(20)})
    sums = np.zeros((5, len(DOMAINS)))
    sums[0, CT] = 1
    labels = {"ct": {"sampled": counts, "gold": collections.Counter()}}
    shown = domains.row([{domains.SUMS: sums, domains.LABELS: labels}])["labels"]["ct"]["sampled"]
    assert len(shown) == domains.MOST_LABELS + 1 and sum(shown.values()) == counts.total()
