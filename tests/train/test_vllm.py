"""Rollouts and evaluation by a vLLM server, played by the package's own sampler."""

from __future__ import annotations

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from helpers.vllm_server import serving

from qoq_jax.base import progress
from qoq_jax.base.errors import ConfigError, DataError, QoqError, RetryError
from qoq_jax.data import unpacking
from qoq_jax.evaluation import runner
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.parallel.hosts import Share
from qoq_jax.rewards.score import RewardConfig
from qoq_jax.sampling import vllm_client
from qoq_jax.sampling.config import RolloutConfig
from qoq_jax.sampling.sampler import make_sampler
from qoq_jax.sampling.schedule import Settings
from qoq_jax.sampling.vllm import Server, to_messages
from qoq_jax.train import batches
from qoq_jax.train import config as config_lib
from qoq_jax.train import run as run_lib
from qoq_jax.train import setup as setup_lib

IMAGES = ("chest_xray", "fundus")  # domains of climb-mini whose samples are single images
RL = {
    "questions": 4,
    "rollouts": 3,
    "response_tokens": 6,
    "steps": 2,
    "warmup": 0,
    "lr": 1e-2,
    "old_logprobs": "trainer",
    "importance_cap": 2.0,
    "save_every": 100,
}


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """(setup of the nano model on one device, with images alone; its start weights)."""
    root, patch = tmp_path_factory.mktemp("vllm"), pytest.MonkeyPatch()
    one = mesh_lib.make_mesh(1, 1, 1, jax.devices()[:1])
    patch.setattr(vllm_client, "WAITS", (0.0, 0.0))
    patch.setattr(setup_lib.mesh_lib, "make_mesh", lambda *sizes: one)
    rows = batches.Batches.rows
    patch.setattr(
        batches.Batches,
        "rows",
        lambda self, split: batches._of_domains(rows(self, split), IMAGES),
    )
    cfg = config_lib.parse(
        {
            "workdir": str(root / "run"),
            "data": {
                "real": False,
                "mini_rows": 60,
                "root": str(root / "data"),
                "max_patches": 72,
                "mean_patches": 64,
                "mean_ecgs": 0.5,
                "max_prompt_tokens": 76,
                "max_response_tokens": 6,
                "frame_max_pixels": 84 * 84,
                "media_rows": 2,
            },
            "rl": RL,
            "log": {"every": 1, "tensorboard": False},
            "eval": {"rows": 4, "limit_per_domain": 1},
        }
    )
    reward = RewardConfig(accuracy=0, iou=0, format=0, custom="helpers.train:pseudo_reward")
    setup = setup_lib.assemble(
        dataclasses.replace(cfg, rl=dataclasses.replace(cfg.rl, algorithm="remax", reward=reward))
    )
    with jax.set_mesh(one):
        yield setup, spec.init_params(vlm.param_specs(setup.model), jax.random.key(3))
    patch.undo()


def with_server(setup, fake, **changes):
    rollout = RolloutConfig(engine="vllm", url=fake.url)
    return dataclasses.replace(
        setup, config=dataclasses.replace(setup.config, rollout=rollout, **changes), quarantined=[]
    )


def server_of(setup, fake) -> Server:
    config = with_server(setup, fake).config
    return Server(setup.model, setup.tokenizer, config.rollout, config.workdir)


def a_batch(setup):
    """(packed prompts, where they stand, their budget)."""
    budget = setup.training_budget("rl", answers=False)
    return (*next(iter(setup.training_iterator("rl", answers=False))), budget)


def test_greedy_responses_are_those_of_the_own_engine(nano):
    setup, params = nano
    batch, placed, budget = a_batch(setup)
    settings = Settings(max_new_tokens=6)
    with serving() as fake:
        server = server_of(setup, fake)
        server.load(params)
        tokens, mask, logprobs = server.rollout(batch, placed, budget, settings, 0, Share())
        body = next(body for path, body in fake.posts if path == "/v1/chat/completions")
    sampler = make_sampler(setup.model, dataclasses.replace(settings, rows=0), setup.mesh)
    wanted = sampler(params, setup.put(batch), jax.random.key(0), setup.banned)
    rows = [one.row for one in placed]
    np.testing.assert_array_equal(tokens[rows], np.asarray(wanted.tokens)[rows])
    np.testing.assert_array_equal(mask[rows], np.asarray(wanted.mask)[rows])
    np.testing.assert_allclose(logprobs[rows], np.asarray(wanted.logprobs)[rows], atol=1e-4)
    # what is never sampled, and what ends a response
    assert set(map(int, body["logit_bias"])) == set(np.flatnonzero(np.asarray(setup.banned)))
    assert body["stop_token_ids"] == list(setup.model.eos_ids)


@pytest.mark.slow
def test_a_run_trains_on_the_responses_of_the_server(nano, tmp_path):
    """Weights reach the server each step: its log-probabilities stay those of the trainer, whose
    weights move. Both kinds of responses come from it (the baseline of ReMax is a greedy one).
    """
    setup, params = nano
    os.makedirs(tmp_path / "run")
    with serving() as fake:
        setup = with_server(setup, fake, workdir=str(tmp_path / "run"))
        run_lib.run_stage(setup, "rl", params)
        asked = [body for path, body in fake.posts if path == "/v1/chat/completions"]
        loaded = fake.loaded
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 2 and len(loaded) == 2 and len(set(loaded)) == 2
    assert {body["n"] for body in asked} == {1, 3} and {body["temperature"] for body in asked} == {
        0.0,
        1.0,
    }
    assert all(row["logprob_difference_max"] < 1e-3 and row["update_finite"] == 1 for row in rows)
    assert len({body["seed"] for body in asked if body["n"] == 3}) > 4  # of each step its own
    # weights that the server no longer needs are gone
    assert os.listdir(tmp_path / "run" / "rollout_weights") == []


def test_an_evaluation_is_that_of_the_own_engine(nano, tmp_path):
    setup, params = nano
    wanted = runner.answer(setup, params, "test", 1)
    with serving() as fake:
        served = with_server(setup, fake, workdir=str(tmp_path))
        found = runner.answer(served, params, "test", 1)
    assert found == wanted and len(found) == len(IMAGES)
    assert os.listdir(tmp_path / "rollout_weights") == []  # the server has them in its memory


def test_pictures_come_back_pixel_for_pixel(nano):
    """Patches of what is sent are the patches that were packed."""
    setup, _ = nano
    batch, placed, budget = a_batch(setup)
    sample = unpacking.unpack(batch, placed[0], budget)
    (picture,) = unpacking.pictures(sample, 14)
    rows, columns = sample["patch_hw"].max(axis=0) + 1
    assert picture.shape == (14 * rows, 14 * columns, 3)
    for patch, (row, column) in zip(sample["patches"], sample["patch_hw"]):
        cut = picture[14 * row : 14 * row + 14, 14 * column : 14 * column + 14]
        both = patch.reshape(3, 2, 14, 14)
        np.testing.assert_array_equal(both, np.stack([cut, cut]).transpose(3, 0, 1, 2))


def test_messages_are_the_turns_of_the_prompt(nano):
    setup, _ = nano
    cfg, tokenizer = setup.model, setup.tokenizer
    name = tokenizer.token_to_id
    pad = [name("<|vision_start|>"), cfg.image_token_id, name("<|vision_end|>")]
    start, end, line = name("<|im_start|>"), name("<|im_end|>"), tokenizer.encode("\n")
    ids = [start, *tokenizer.encode("user\nA"), *pad, *tokenizer.encode("B"), end, *line]
    ids += [start, *tokenizer.encode("assistant\n")]
    turns = to_messages(tokenizer, cfg, np.array(ids), [np.zeros((28, 28, 3), np.uint8)])
    (user,) = turns
    assert user["role"] == "user"
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    assert [part.get("text") for part in user["content"]] == ["A", None, "B"]
    opened = to_messages(
        tokenizer, cfg, np.array([*ids, *tokenizer.encode("So")]), [np.zeros((28, 28, 3), np.uint8)]
    )
    assert opened[-1] == {"role": "assistant", "content": "So"}


def test_what_is_refused(nano):
    setup, params = nano
    batch, placed, budget = a_batch(setup)
    one, settings = unpacking.unpack(batch, placed[0], budget), Settings(max_new_tokens=6)
    with serving() as fake:
        server = server_of(setup, fake)
        server.load(params)
        for token, what in (
            (setup.model.ecg_token_id, "an ECG, which rollout.engine=vllm cannot pass on"),
            (setup.model.video_token_id, "a video or volume"),
        ):
            with pytest.raises(DataError, match=what):
                ids = np.append(one["input_ids"], token)
                server.ask([one | {"input_ids": ids}], settings, 0)
        fake.extra = [7]
        with pytest.raises(
            QoqError, match="answers to another prompt.*first difference at token 0"
        ):
            server.ask([one], settings, 0)
        fake.dev_mode = False
        with pytest.raises(ConfigError, match="VLLM_SERVER_DEV_MODE=1"):
            server.load(params)


@pytest.fixture(scope="module")
def loaded(nano):
    """(server that has its weights, the fake one behind it, a sample)."""
    setup, params = nano
    batch, placed, budget = a_batch(setup)
    with serving() as fake:
        server = server_of(setup, fake)
        server.load(params)
        yield server, fake, unpacking.unpack(batch, placed[0], budget)
        server.close()


@pytest.fixture
def asking(loaded):
    """The same, in good health before and after."""
    yield loaded
    loaded[1].behave()


def ask(server: Server, sample: dict, responses: int = 1):
    settings = Settings(max_new_tokens=6, num_samples=responses, temperature=1.0)
    return server.ask([sample], settings, 0)[0]


def test_each_response_has_a_seed_of_its_own(nano, asking):
    """vLLM gives child g of a request the request's seed + g."""
    server, fake, _ = asking
    batch, placed, budget = a_batch(nano[0])
    settings = Settings(max_new_tokens=6, num_samples=3, temperature=1.0)
    before = len(fake.posts)
    for index in range(2):
        server.rollout(batch, placed, budget, settings, 5, Share(index, 2, (0, 1)))
    asked = [body for path, body in fake.posts[before:] if path == "/v1/chat/completions"]
    seeds = [body["seed"] + g for body in asked for g in range(body["n"])]
    assert len(seeds) == 2 * 3 * len(placed) > 6
    assert len(set(seeds)) == len(seeds) and min(seeds) == 5


def test_weights_never_have_a_name_twice(nano, tmp_path):
    """Neither those of two servers of one run, nor of two runs; none are left."""
    setup, params = nano
    with serving() as fake:
        config = dataclasses.replace(with_server(setup, fake).config.rollout, folder=str(tmp_path))
        for _ in range(2):
            server = Server(setup.model, setup.tokenizer, config, "unused")
            for _ in range(2):
                server.load(params)
                assert os.listdir(tmp_path) == [os.path.basename(fake.loaded[-1])]
            server.close()
            assert os.listdir(tmp_path) == []
        assert len(set(fake.loaded)) == 4


def test_choices_go_by_their_index(asking):
    server, fake, sample = asking
    wanted = ask(server, sample, responses=3)
    fake.change = lambda found: found | {"choices": found["choices"][::-1]}
    found = ask(server, sample, responses=3)
    assert [one.sample for one in found] == [0, 1, 2]
    assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in wanted]


def choice(**values):
    """A change of an answer's last choice."""
    return lambda found: (
        found | {"choices": [*found["choices"][:-1], found["choices"][-1] | values]}
    )


def of_tokens(*ids: int, reason: str = "length"):
    content = [{"logprob": -1.0}] * len(ids)
    return choice(token_ids=list(ids), logprobs={"content": content}, finish_reason=reason)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: [], "another form"),
        (lambda found: {"prompt_token_ids": found["prompt_token_ids"]}, "another form"),
        (
            lambda found: found | {"choices": found["choices"][:1]},
            "1 responses, of indices \\[0\\]",
        ),
        (choice(index=0), "of indices \\[0, 0\\]"),
        (choice(logprobs=None), "another form"),
        (choice(logprobs={"content": []}), "with 0 log-probabilities"),
        (
            choice(logprobs={"content": [{"logprob": None}] * 6}, token_ids=[5] * 6),
            "finite",
        ),
        (choice(finish_reason="abort"), "ended by abort"),
        (choice(finish_reason="text of a patient"), "ended by an unknown reason"),
        (of_tokens(*[5] * 7), "7 tokens, where at most 6"),
        (of_tokens(5, 5), "cut at 2 tokens, where 6.*max-model-len"),
        (of_tokens(5, 5, reason="stop"), "does not end a turn.*--generation-config vllm"),
    ],
)
def test_answers_of_another_shape_are_refused(asking, change, said):
    server, fake, sample = asking
    fake.change = change
    with pytest.raises(QoqError, match=said) as caught:
        ask(server, sample, responses=2)
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, QoqError, "says 400 .BadRequestError."),
        (401, ConfigError, "QOQ_VLLM_API_KEY"),
        (429, RetryError, "says 429"),
        (500, RetryError, "says 500"),
        (503, RetryError, "says 503"),
    ],
)
def test_errors_hold_nothing_of_what_was_sent(asking, status, kind, said):
    """vLLM repeats what it could not read, and prompts are of patients."""
    server, fake, sample = asking
    error = {"message": "cannot read 'Mrs Doe'", "type": "BadRequestError"}
    for answer in ({"error": error}, error):
        fake.refusal = (status, {}, answer)
        with pytest.raises(QoqError, match=said) as caught:
            ask(server, sample)
        assert type(caught.value) is kind and "Doe" not in str(caught.value)
    fake.refusal = (status, {}, {"error": {"type": "of Mrs Doe"}})
    with pytest.raises(kind, match=str(status)) as caught:
        ask(server, sample)
    assert "Doe" not in str(caught.value)


def test_redirects_are_not_followed(asking):
    """What they name may be anybody's."""
    server, fake, sample = asking
    with serving() as other:
        fake.refusal = (307, {"Location": other.url + "/v1/chat/completions"}, None)
        with pytest.raises(QoqError, match="says 307.*redirects are not followed"):
            ask(server, sample)
        assert not other.posts


def test_the_environment_gives_the_api_key_and_nothing_else(nano, asking, monkeypatch, tmp_path):
    setup, _ = nano
    _, fake, sample = asking
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    ask(server_of(setup, fake), sample)
    assert "Authorization" not in fake.headers[-1]
    monkeypatch.setenv("QOQ_VLLM_API_KEY", "key-of-tests\n")
    ask(server_of(setup, fake), sample)
    assert fake.headers[-1]["Authorization"] == "Bearer key-of-tests"
    monkeypatch.setenv("QOQ_VLLM_API_KEY", "key\nof tests")
    with pytest.raises(ConfigError, match="QOQ_VLLM_API_KEY has characters") as caught:
        server_of(setup, fake)
    assert "of tests" not in str(caught.value)


def test_dropped_connections_are_repeated(asking):
    server, fake, sample = asking
    wanted = ask(server, sample)
    fake.drop = 2
    (found,), (expected,) = ask(server, sample), wanted
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    fake.drop = 3
    with pytest.raises(RetryError, match="cannot be reached .ConnectionError."):
        ask(server, sample)
    assert fake.drop == 0


def test_a_late_answer_is_told_as_one(nano, asking):
    """And not repeated: the server would have the work twice."""
    setup, _ = nano
    _, fake, sample = asking
    config = dataclasses.replace(with_server(setup, fake).config.rollout, timeout=0.3)
    hasty = Server(setup.model, setup.tokenizer, config, "unused")
    fake.delay, before = 1.0, len(fake.headers)
    with pytest.raises(RetryError, match="not answered within 0.3 s.*rollout.timeout"):
        ask(hasty, sample)
    assert len(fake.headers) == before + 1


def test_each_answer_is_progress(asking):
    """A rollout may take longer than the watchdog waits."""
    server, _, sample = asking
    ask(server, sample)
    before = progress.beats()
    server.ask([sample] * 3, Settings(max_new_tokens=6), 0)
    assert progress.beats() == before + 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rollout": {"engine": "vllm"}}, "set rollout.url"),
        (
            {"rollout": {"engine": "vllm", "url": "http://a"}, "rl": {"temperature": 0.7}},
            "set rl.temperature=1",
        ),
        (
            {"rollout": {"engine": "vllm", "url": "http://a", "timeout": 1800}},
            "set rollout.timeout below faults.watchdog",
        ),
        (
            {
                "rollout": {"engine": "vllm", "url": "http://a", "timeout": 100},
                "faults": {"watchdog": 60},
            },
            "faults.watchdog = 60 would end",
        ),
        *(
            (values | {"rl": {"algorithm": "gspo"} | rl}, "set rl.old_logprobs=trainer")
            for values, rl in (
                ({"rollout": {"engine": "vllm", "url": "http://a"}}, {}),
                ({}, {"rollout_weights": "int8"}),
                ({}, {"kv_cache_dtype": "int8"}),
            )
        ),
    ],
)
def test_configs_that_cannot_be(values, said):
    with pytest.raises(ConfigError, match=said):
        config_lib.parse(values)


@pytest.mark.parametrize(
    "values",
    [
        {"rollout": {"engine": "vllm", "url": "http://a"}},
        {
            "rollout": {"engine": "vllm", "url": "http://a", "timeout": 9e9},
            "faults": {"watchdog": 0},
        },
        {"rl": {"algorithm": "gspo"}},
        {"rl": {"algorithm": "gspo", "rollout_weights": "int8", "old_logprobs": "trainer"}},
        {"rl": {"algorithm": "grpo", "rollout_weights": "int8"}},
    ],
)
def test_configs_that_can_be(values):
    config_lib.parse(values)


def test_passwords_in_the_address_are_refused_and_not_shown():
    for url in ("http://me:secret@host:8000", "me:secret@host"):
        with pytest.raises(ConfigError, match="set QOQ_VLLM_API_KEY") as caught:
            config_lib.parse({"rollout": {"engine": "vllm", "url": url}})
        assert "secret" not in str(caught.value)
