"""Batches of several processes: all read the same rows, also where they evaluate."""

from __future__ import annotations

import pytest

from qoq_jax.base.errors import DataError
from qoq_jax.parallel import messages
from qoq_jax.train import setup
from qoq_jax.train.config import Config, DataConfig


def test_processes_with_other_rows_than_each_other_do_not_evaluate(tmp_path, monkeypatch):
    data = DataConfig(root=str(tmp_path), mini_rows=40, real=False, media_rows=8)
    batches = setup.assemble(Config(stages=("sft",), workdir=str(tmp_path / "run"), data=data))
    mine = batches.evaluation_iterator("test", 1).fingerprint
    monkeypatch.setattr(messages, "exchange", lambda name, value: [value, mine])
    batches.evaluation_iterator("test", 1)  # as the other process
    with pytest.raises(DataError, match="process 1 has other rows"):
        batches.evaluation_iterator("test", 2)
