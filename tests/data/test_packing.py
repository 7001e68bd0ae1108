"""Packed batches hold exactly what the samples hold."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rows import TOKENIZER, config, mixed_rows, row, write_image

from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.data import packing
from qoq_jax.data import sample as transforms

PAD = TOKENIZER.token_to_id("<|endoftext|>")
BUDGET = packing.Budget(rows=4, tokens=256, media_rows=2, patches=256, ecgs=2, pad_id=PAD)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("packing")
    return [
        transforms.process(r, root, TOKENIZER, config(), with_answer=True)
        for r in mixed_rows(root, 8)
    ]


def unpack(batch, place, budget):
    """The sample at a place, read back from the batch alone."""
    where = batch["segment_ids"][place.row] == place.segment
    media = place.row // budget.rows_per_media_row
    index = batch["media_index"][place.row, where]
    vision = index[(index >= 0) & (index < budget.patches // 4)]
    ecg = index[index >= budget.patches // 4] - budget.patches // 4
    units = np.sort(vision)
    patches = (units[:, None] * 4 + np.arange(4)).ravel()
    return {
        "input_ids": batch["tokens"][place.row, where],
        "positions": batch["positions"][place.row][:, where],
        "loss_mask": batch["loss_mask"][place.row, where],
        "branch_ids": batch["branch_ids"][place.row, where],
        "vision": vision - (units[0] if len(units) else 0),
        "patches": batch["patches"][media, patches],
        "patch_hw": batch["patch_hw"][media, patches],
        "patch_frame": batch["patch_frame"][media, patches],
        "patch_window": batch["patch_window"][media, patches],
        "ecg": [batch["ecg"][media, e] for e in np.unique(ecg // budget.ecg_tokens)],
    }


def test_shapes_types_and_padding():
    batch, placed = packing.pack([], BUDGET)
    assert placed == []
    assert {k: v.dtype.name for k, v in batch.items()} == dict.fromkeys(batch, "int32") | {
        "loss_mask": "float32",
        "patches": "uint8",
        "ecg": "float32",
    }
    assert {k: v.shape for k, v in batch.items()} == {
        "tokens": (4, 256),
        "positions": (4, 3, 256),
        "segment_ids": (4, 256),
        "branch_ids": (4, 256),
        "media_index": (4, 256),
        "loss_mask": (4, 256),
        "patches": (2, 256, 1176),
        "patch_hw": (2, 256, 2),
        "patch_frame": (2, 256),
        "patch_window": (2, 256),
        "ecg": (2, 2, 8, 2500),
    }
    assert (
        (batch["tokens"] == PAD).all()
        and (batch["media_index"] == -1).all()
        and not batch["segment_ids"].any()
    )


def test_packed_equals_unpacked(samples):
    batch, placed = packing.pack(samples, BUDGET)
    assert [p.meta.id for p in placed] == [s["meta"].id for s in samples]
    assert max(p.segment for p in placed) > 1
    frames, windows = set(), set()
    for sample, place in zip(samples, placed):
        got = unpack(batch, place, BUDGET)
        for key in ("input_ids", "positions", "patches", "patch_hw"):
            np.testing.assert_array_equal(got[key], sample[key])
        answer = np.arange(len(sample["input_ids"])) >= sample["prompt_length"]
        np.testing.assert_array_equal(got["loss_mask"], answer)
        np.testing.assert_array_equal(got["branch_ids"], answer)
        np.testing.assert_array_equal(
            got["vision"], sample["media_index"][sample["media_kind"] == transforms.VISION]
        )
        assert len(got["ecg"]) == len(sample["ecg"])
        np.testing.assert_array_equal(np.reshape(got["ecg"], sample["ecg"].shape), sample["ecg"])
        media = place.row // BUDGET.rows_per_media_row
        for name, seen in (("patch_frame", frames), ("patch_window", windows)):
            np.testing.assert_array_equal(np.diff(got[name]), np.diff(sample[name]))
            ids = {(media, int(i)) for i in got[name]}
            assert not ids & seen  # no two samples share a segment
            seen |= ids
    assert batch["loss_mask"].sum() == sum(
        len(s["input_ids"]) - s["prompt_length"] for s in samples
    )


def test_segments_are_contiguous_and_do_not_decrease(samples):
    batch, _ = packing.pack(samples, BUDGET)
    for name in ("patch_frame", "patch_window"):
        for ids in batch[name]:
            used = ids[: np.count_nonzero(ids)]
            assert not ids[len(used) :].any()
            assert set(np.diff(used)) <= {0, 1} and (len(used) == 0 or used[0] == 1)


def test_max_per_row_limits_a_row(samples):
    budget = packing.Budget(
        rows=4, tokens=256, media_rows=2, patches=256, ecgs=2, pad_id=PAD, max_per_row=1
    )
    _, placed = packing.pack(samples[:4], budget)
    assert [(p.row, p.segment) for p in placed] == [(0, 1), (1, 1), (2, 1), (3, 1)]
    with pytest.raises(DataError, match="4 of 5 samples fill the batch"):
        packing.pack(samples[:5], budget)


@pytest.mark.parametrize("what", ["tokens", "patches"])
def test_a_sample_larger_than_an_empty_batch_is_named(tmp_path, what):
    image = write_image(tmp_path, "a.png", 112, 112)
    sample = transforms.process(row("big", images=[image]), tmp_path, TOKENIZER, config())
    size = {"tokens": 256, "patches": 256} | {what: 32}
    with pytest.raises(DataError, match=f"row 'big'.*{what}, a whole batch row has 32.*hint"):
        packing.pack([sample], packing.Budget(rows=1, media_rows=1, ecgs=0, pad_id=PAD, **size))


@pytest.mark.parametrize("wrong", [{"rows": 3}, {"patches": 30}, {"tokens": 0}, {"ecgs": -1}])
def test_impossible_budgets_are_config_errors(wrong):
    fields = {"rows": 4, "tokens": 8, "media_rows": 2, "patches": 8, "ecgs": 0, "pad_id": 0} | wrong
    with pytest.raises(ConfigError, match="budget"):
        packing.Budget(**fields)
