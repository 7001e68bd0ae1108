"""How a config mixes the sources of the training rows."""

import concurrent.futures

import pytest
from helpers.rows import row, write_image

from qoq_jax.data import pipeline
from qoq_jax.data import rows as schema
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.config import DataConfig
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.models import sizes
from qoq_jax.train import batches
from qoq_jax.train.config import Config


@pytest.fixture
def ordered(tmp_path, monkeypatch):
    """(data config) -> rows of each source and the Shuffle that stage rl asks for."""
    roots = {}
    for name, count in (("climb-mini", 8), ("real", 2)):
        roots[name] = str(tmp_path / name)
        (tmp_path / name).mkdir()
        image = write_image(tmp_path / name, "a.png", 56, 56)
        rows = [row(f"{name}-{i}", domain="ct", images=[image]) for i in range(count)]
        schema.write_jsonl(tmp_path / name / "train.jsonl", rows)
    monkeypatch.setattr(pipeline, "make_iterator", lambda recipe, order, reading: (recipe, order))

    def made(**data):
        model = sizes.get("nano")
        prepared = concurrent.futures.Future()
        prepared.set_result((roots, []))
        found = batches.Batches(
            config=Config(data=DataConfig(**data)),
            model=model,
            tokenizer=tokenizer_lib.load("nano"),
            process=ProcessConfig.for_model(model, max_pixels=56 * 56, frame_max_pixels=56 * 56),
            prepared=prepared,
        )
        recipe, order = found.training_iterator("rl", answers=False)
        return {source.name: len(source.rows) for source in recipe.sources}, order

    return made


def test_real_rows_are_repeated_by_default(ordered):
    rows, order = ordered()
    assert rows == {"climb-mini": 8, "real": 8}
    assert order.weights_by_domain is None and order.source_power is None


def test_mixing_domains_alone_is_as_before(ordered):
    rows, order = ordered(mixing_power=0.5)
    assert rows == {"climb-mini": 8, "real": 8}
    assert order.weights_by_domain == {"ct": pytest.approx(10**0.5)}
    assert order.source_power is None


def test_mixing_sources_takes_the_place_of_the_repetition(ordered):
    rows, order = ordered(mixing_power=0.5, mix_sources=True)
    assert rows == {"climb-mini": 8, "real": 2}
    assert order.weights_by_domain == {"ct": pytest.approx(10**0.5)}
    assert order.source_power == 0.5


def test_mixing_sources_at_power_one_draws_all_rows_alike(ordered):
    rows, order = ordered(mix_sources=True)
    assert rows == {"climb-mini": 8, "real": 2}
    assert order.weights_by_domain == {"ct": 10.0} and order.source_power == 1.0
