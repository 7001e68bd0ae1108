"""Mistakes in jobs: each is found, named in one line, and shows no secret."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest
from helpers.jobs import GPU, ONE_HOST, SLICES, TPU

from qoq_jax.launch import check, place
from qoq_jax.launch.spec import Job

CANARY = "zqcanary7391"


def errors(job, engine="gke", **changes):
    return [str(one) for one in check.check(dataclasses.replace(job, **changes), engine)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grace": "120"}, "grace is of type str (hint: grace is a whole number)"),
        ({"grace": 1.5}, "grace is of type float"),
        ({"max_restarts": True}, "max_restarts is of type bool"),
        ({"hours": "24"}, "hours is of type str (hint: hours is a number)"),
        ({"slices": None}, "slices is of type NoneType"),
        ({"topology": 16}, "topology is of type int (hint: topology is a text)"),
        ({"workdir": pathlib.Path("/w")}, "workdir is of type"),
        ({"spot": "no"}, "spot is of type str (hint: spot is True or False)"),
        ({"secrets": "HF_TOKEN"}, "secrets is of type str"),
        ({"secrets": ("HF_TOKEN", 3)}, "secrets is of type tuple"),
        ({"env": {"A": 1}}, "env is of type dict"),
        ({"env": [("A", "1")]}, "env is of type list"),
    ],
)
def test_kinds_of_fields(changes, message):
    (found,) = errors(TPU, **changes)
    assert message in found


@pytest.mark.parametrize("changes", [{"hours": 24}, {"checkpoint_gib": 90.5}, {"secrets": ["A"]}])
def test_what_is_nearly_the_kind_passes(changes):
    assert errors(TPU, **changes) == []


@pytest.mark.parametrize(
    ("job", "engine", "several"),
    [(TPU, "gke", True), (GPU, "slurm", True), (ONE_HOST, "tpu-vm", False)],
)
@pytest.mark.parametrize("by_command", [True, False])
def test_several_processes_have_no_workdir_on_s3(job, engine, several, by_command):
    where = "s3://bucket/run"
    changes = {"workdir": where}
    if by_command:
        changes = {"command": f"{job.command} --config.workdir={where}"}
    found = errors(job, engine, **changes)
    assert any("s3:// is for one process" in one for one in found) == several, found


def test_local_processes_have_no_workdir_on_s3():
    job = Job(name="a", command="qoq train --config=c.py", topology="cpu:1", workdir="s3://b/r")
    assert errors(job, "local") == []
    assert "s3:// is for one process" in errors(job, "local", topology="cpu:2")[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "QoQ_Med"}, "lower case letters"),
        ({"name": "7b"}, "a letter first"),
        ({"name": "x" * 41}, "at most 40"),
        ({"name": "x-"}, "lower case letters"),
        ({"topology": "v5x:4x4"}, "unknown device 'v5x'"),
        ({"topology": "v5e:4x4x4"}, "write 2 sizes"),
        ({"topology": "2*v5e:4x4"}, "write slices=2"),
        ({"topology": "v5e:3x3"}, "no such slice is for hire (hint: one of 1x1, 2x2, 2x4"),
        ({"topology": "v5e:8x4"}, "no such slice"),
        ({"topology": "v5p:3x3x3"}, "no such slice is for hire (hint: one of 2x2x1, 2x2x2, 2x2x4"),
        ({"topology": "v5p:4x2x2"}, "no such slice"),
        ({"topology": "v5p:1x2x2"}, "no such slice"),
        ({"topology": "v4:2x4x8"}, "no such slice"),
        ({"topology": "v4:8x4x4"}, "the smallest first"),
        ({"topology": "tpu7x:4x4x6"}, "no such slice"),
        ({"topology": "cpu:2"}, "gke has no cpu"),
        ({"topology": "h100:4x8", "slices": 2}, "h100 has no slices"),
        ({"slices": 0}, "slices = 0"),
        (
            {"env": {"LIBTPU_INIT_ARGS": "--xla_tpu_scoped_vmem_limit_kb=65536"}},
            "did you mean 'xla_tpu_scoped_vmem_limit_kib'?",
        ),
        ({"grace": 0}, "grace = 0"),
        ({"hours": -1.0}, "hours = -1"),
        ({"checkpoint_gib": float("nan")}, "checkpoint_gib = nan"),
        ({"max_restarts": -1}, "max_restarts = -1"),
        ({"spot": True, "reservation": "ours"}, "not preemptible"),
        ({"workdir": ""}, "workdir is not set, and v5e:16x16 has 64 hosts"),
        ({"workdir": "runs/one"}, "workdir 'runs/one'"),
        ({"workdir": "gs://"}, "workdir 'gs://'"),
        ({"workdir": "gs://bucket/a b"}, "no spaces"),
        ({"image": ""}, "engine gke needs image"),
        ({"project": ""}, "engine gke needs project"),
        ({"zone": ""}, "engine gke needs zone"),
        ({"cluster": ""}, "engine gke needs cluster"),
        ({"cluster": "x; rm -rf /"}, "cluster has characters"),
        ({"env": {"MY-NAME": "1"}}, "variable's name is not one"),
        ({"secrets": ("HF_TOKEN=x",)}, "variable's name is not one"),
        ({"env": {"QOQ_COORDINATOR": "203.0.113.5:8476"}}, "private network"),
        ({"env": {"A": "1"}, "secrets": ("A",)}, "A is in env and in secrets"),
        ({"xla_flags": "", "env": {"XLA_FLAGS": "--xla_x"}}, 'with xla_flags="none"'),
        ({"command": ""}, "command is empty"),
        ({"command": "qoq train --config=x.py; reboot"}, "more than one"),
        ({"command": "qoq train --config=x.py | tee log"}, "more than one"),
        ({"command": "qoq train $(id)"}, "more than one"),
        ({"command": "qoq train\nreboot"}, "line break"),
        ({"command": "A=1 qoq train"}, "begins with a variable"),
        ({"command": "qoq train 'x"}, "close the quotation"),
        (
            {"command": "qoq sweep configs/evidence.py"},
            "only qoq train, qoq evaluate and qoq sweep",
        ),
        ({"command": "qoq sweep configs/evidence.py --jobs 4"}, "a sweep is no bucket"),
        ({"topology": "v5e:4x4", "grace": 110}, "on 4 hosts takes about 111 s"),
    ],
)
def test_mistakes(changes, message):
    found = errors(TPU, checkpoint_gib=changes.pop("checkpoint_gib", 90.1), **changes)
    assert any(message in one for one in found), found
    assert not any("\n" in one for one in found)


@pytest.mark.parametrize(
    ("job", "engine", "changes", "message"),
    [
        (TPU, "tpu-vm", {"zone": ""}, "engine tpu-vm needs zone"),
        (TPU, "tpu-vm", {"topology": "tpu7x:2x2x2"}, "tpu-vm has no tpu7x (hint: engine gke)"),
        (TPU, "slurm", {}, "slurm has no v5e"),
        (GPU, "tpu-vm", {}, "tpu-vm has no h100"),
        (GPU, "slurm", {"partition": ""}, "engine slurm needs partition"),
        (GPU, "slurm", {"spot": True}, "preemptible partition"),
        (GPU, "slurm", {"command": "python x.py"}, "only qoq train, qoq evaluate"),
        (GPU, "skypilot", {"image": ""}, "engine skypilot needs image"),
        (GPU, "skypilot", {"reservation": "ours"}, "~/.sky/config.yaml"),
        (SLICES, "skypilot", {}, "joins no TPU slices"),
        (TPU, "skypilt", {}, "did you mean 'skypilot'?"),
    ],
)
def test_mistakes_of_an_engine(job, engine, changes, message):
    found = errors(job, engine, **changes)
    assert any(message in one for one in found), found


SECRETS = [
    f"hf_{CANARY}abcdefgh",
    "AKIAIOSFODNN7EXAMPLE",
    f"ghp_{CANARY}abcdefghijkl",
    f"password={CANARY}",
    f"--token={CANARY}",
    f"api_key: {CANARY}",
    f"https://me:{CANARY}@example.org/x",
    f"sk-{CANARY}abcdefgh",
    "-----BEGIN RSA PRIVATE KEY-----",
    f"--hf_token {CANARY}",
    f"--hf-token '{CANARY}'",
    f"WANDB_KEY={CANARY}",
    f"--db.pass={CANARY}",
    f"HF_TOKEN_1={CANARY}",
    f"Bearer {CANARY}",
    f"Authorization: {CANARY}",
    f"eyJhbGciOiJIUzI1NiJ9.eyJ{CANARY}",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("field", ["command", "env"])
def test_secrets_are_found_and_not_shown(field, secret):
    quoted = secret if secret.startswith("--") else repr(secret)
    changed = {"env": {"NOTE": secret}, "command": f"qoq train --x {quoted}"}[field]
    found = errors(TPU, **{field: changed})
    assert any(f"{field}" in one and "hold a secret" in one for one in found), found
    assert not any(CANARY in one for one in found)


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN",
        "HF_TOKEN_1",
        "KAGGLE_KEY",
        "WANDB_KEY",
        "KEY_OF_MAPS",
        "DB_PASS",
        "DBPASSWORD",
        "AWS_CREDENTIALS",
        "GCP_CREDS",
        "NETRC_AUTH",
        "secret",
    ],
)
def test_a_secret_by_its_variable_is_found(name):
    found = errors(TPU, env={name: CANARY})
    assert len(found) == 1
    assert found[0].startswith(f"env: {name} seems to hold a secret")


def test_a_compilers_pass_is_no_password():
    flag = "--xla_jf_simplifier_pass_enabled=true"
    assert errors(TPU, env={"LIBTPU_INIT_ARGS": flag}) == []
    found = errors(TPU, env={"LIBTPU_INIT_ARGS": f"{flag} --xla_dump_to=hf_{CANARY}abcdefgh"})
    assert "hold a secret" in found[0]
    assert not any(CANARY in one for one in found)


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "BYPASS_CACHE", "AUTHOR"]
)
def test_names_that_only_look_like_those_of_secrets_pass(name):
    assert errors(TPU, env={name: "1"}) == []


@pytest.mark.parametrize(
    "command",
    [
        "qoq train --config=x.py --config.data.tokenizer=hf/one --config.rl.max_tokens=512",
        "qoq train --config=x.py --token=$HF_TOKEN",
        'qoq train --config=x.py --token "$HF_TOKEN"',
        "qoq train --config=x.py --token --verbose",
        "qoq train --config=configs/key.py:v5e-4x4",
    ],
)
def test_what_is_no_secret_passes(command):
    assert errors(TPU, command=command) == []


@pytest.mark.parametrize("bad", ["\0", "\x1b[2J", "\t", "\r", "\x7f", "\x9b"])
def test_control_characters_are_refused(bad):
    for changes in ({"env": {"NOTE": f"a{bad}b"}}, {"command": f"{TPU.command} --x='a{bad}b'"}):
        found = errors(TPU, **changes)
        assert len(found) == 1
        assert "has a control character" in found[0]
        assert found[0].isprintable()


@pytest.mark.parametrize("given", ["=runs/x", " runs/x", "=$HOME/x", "=file:///x"])
@pytest.mark.parametrize(("job", "engine"), [(TPU, "gke"), (GPU, "slurm")])
def test_the_workdir_of_the_command_is_shared_too(job, engine, given):
    (found,) = errors(job, engine, command=f"{job.command} --config.workdir{given}")
    assert "workdir '" in found
    assert "all hosts share" in found


def test_a_workdir_in_the_command_alone_is_enough():
    command = f"{TPU.command} --config.workdir=gs://bucket/run"
    assert errors(TPU, workdir="", command=command) == []
    one = f"{TPU.command} --config.workdir=runs/x"
    assert errors(ONE_HOST, "tpu-vm", command=one) == []


def test_grace_is_bytes_by_hosts_and_rate():
    """90 GiB on 4 hosts at 0.25 GiB/s, and 20 s."""
    at = place.of(dataclasses.replace(TPU, topology="v5e:4x4"))
    assert check.save_seconds(90, at) == 110
    assert check.save_seconds(0, at) == 0


def test_spot_machines_may_be_gone_before_the_save():
    assert "the steps since the last checkpoint are lost" in check.notes(SLICES, "gke")[0]
    assert check.notes(TPU, "gke") == []


@pytest.mark.parametrize(("topology", "said"), [("v5p:4x4x16", True), ("v5p:4x4x4", False)])
def test_skypilot_asks_for_chips_and_not_for_a_shape(topology, said):
    notes = check.notes(dataclasses.replace(TPU, topology=topology), "skypilot")
    assert any("the shape may not be 4x4x16" in one for one in notes) == said


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "per_host", "devices"),
    [
        ("v5e:1x1", 1, 1, 1, 1),
        ("v5e:2x4", 1, 1, 8, 8),
        ("v5e:4x4", 1, 4, 4, 16),
        ("v6e:16x16", 2, 64, 4, 512),
        ("v5p:2x2x1", 1, 1, 4, 4),
        ("v5p:2x2x4", 1, 4, 4, 16),
        ("v5p:4x4x16", 1, 64, 4, 256),
        ("v4:12x12x24", 1, 864, 4, 3456),
        ("tpu7x:2x2x2", 1, 2, 4, 16),
        ("h100:4x8", 1, 4, 8, 32),
        ("cpu:2", 1, 1, 0, 2),
    ],
)
def test_hosts_of_a_topology(topology, slices, hosts, per_host, devices):
    found = place.of(dataclasses.replace(ONE_HOST, topology=topology, slices=slices))
    assert (found.hosts, found.per_host, found.devices) == (hosts, per_host, devices)


def test_checking_imports_no_jax():
    code = "import sys, qoq_jax.launch.check; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
