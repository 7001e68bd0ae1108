"""Greedy generation against transformers' own: token-exact for 64 tokens, a batch of 4 prompts with
different images.
"""

from __future__ import annotations

import numpy as np
import pytest

import qoq_jax
from benchmarks import parity

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", parity.FAMILIES)
def test_greedy_generation_equals_transformers_token_for_token(family, tmp_path):
    model = parity.loud_model(family)
    model.save_pretrained(tmp_path)
    theirs, ours = parity.greedy(model, qoq_jax.load(tmp_path, dtype="float32"))
    assert (
        theirs.shape == (4, 64)
        and len({tuple(row) for row in theirs}) == 4
        and min(len(set(row)) for row in theirs) > 3
    )
    np.testing.assert_array_equal(ours, theirs)
