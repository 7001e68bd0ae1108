"""The tiny encoder by its name, and the tiny data sets."""

import pytest
from helpers import transfer as tiny

from qoq_jax.models.encoders import registry
from qoq_jax.transfer import config, run


@pytest.fixture(scope="session", autouse=True)
def tiny_encoder():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENCODERS, "tiny", tiny.ENCODER)
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="session")
def configured(folder, tiny_encoder):
    """Sections -> config of the tiny encoder on the tiny sets."""

    def make(**sections):
        raw = config.default()
        raw.encoder = "tiny"
        raw.data.mini_rows = 0
        raw.data.extra = (folder,)
        raw.data.frames = 2
        raw.training.batch = raw.few.batch = 8
        raw.training.steps, raw.training.save_every, raw.training.warmup = 6, 2, 1
        raw.log.tensorboard = False
        for name, value in sections.items():
            if isinstance(value, dict):
                raw[name].update(value)
            else:
                raw[name] = value
        return config.parse(raw)

    return make


@pytest.fixture(scope="session")
def sets(configured):
    return run.find_sets(configured(data={"cache": True}))
