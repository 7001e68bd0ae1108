"""The JobSet that GKE gets: its fields, and what becomes of a pod that ends with a code.

The Job within, with its pods, is held against Kubernetes' own schemas (kubernetes-validate). No
package carries those of JobSet: SCHEMA is written by hand from the reference of the fields that we
use, https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/. A tuple is a choice, a list has one
kind of element, {"*": kind} any names, a trailing "?" marks a field that may be absent. A field
that is not here is refused.
"""

import kubernetes_validate
import pytest
import yaml
from helpers.jobs import GPU, SLICES, TPU

from qoq_jax.base import exit_codes
from qoq_jax.launch.engines import gke

KUBERNETES = "1.32"  # whose schemas
REASONS = (
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
)
SCHEMA = {
    "apiVersion": ("jobset.x-k8s.io/v1alpha2",),
    "kind": ("JobSet",),
    "metadata": {"name": str, "annotations?": {"*": str}},
    "spec": {
        "network": {
            "enableDNSHostnames": bool,
            "publishNotReadyAddresses": bool,
            "subdomain": str,
        },
        "successPolicy": {"operator": ("All", "Any")},
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name": str,
                    "action": ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
                    "onJobFailureReasons": [REASONS],
                }
            ],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": dict}}],
    },
}


def fits(value, schema, where=""):
    if isinstance(schema, tuple):
        assert value in schema, f"{where}: {value!r}"
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for i, one in enumerate(value):
            fits(one, schema[0], f"{where}[{i}]")
    elif isinstance(schema, dict):
        assert isinstance(value, dict), where
        if "*" in schema:
            for name, one in value.items():
                fits(one, schema["*"], f"{where}.{name}")
            return
        known = {name.rstrip("?"): kind for name, kind in schema.items()}
        assert {*value} <= {*known}, f"{where}: {sorted({*value} - {*known})}"
        absent = {name for name in schema if not name.endswith("?")} - {*value}
        assert not absent, f"{where}: {sorted(absent)} missing"
        for name, one in value.items():
            fits(one, known[name], f"{where}.{name}")
    else:
        assert type(value) is schema, f"{where}: {value!r}"


def made(job):
    return yaml.safe_load(gke.render(job))


def job_of(job):
    (one,) = made(job)["spec"]["replicatedJobs"]
    return one, one["template"]["spec"], one["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("job", [TPU, SLICES, GPU])
def test_it_fits_the_schema(job):
    fits(made(job), SCHEMA)


def check_job(job):
    kubernetes_validate.validate(job, KUBERNETES, strict=True)


def job_within(job):
    (one,) = made(job)["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **one["template"]}


@pytest.mark.parametrize("job", [TPU, SLICES, GPU])
def test_the_job_within_fits_the_schema_of_kubernetes(job):
    check_job(job_within(job))


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job.update(backofLimit=0),
        lambda job: job.update(completions="two"),
        lambda job: job["template"]["spec"]["containers"][0].pop("name"),
        lambda job: job["podFailurePolicy"]["rules"][0].pop("action"),
    ],
)
def test_the_schema_of_kubernetes_refuses(change):
    job = job_within(TPU)
    change(job["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        check_job(job)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["spec"].update(failurPolicy={}), "failurPolicy"),
        (lambda x: x["spec"]["network"].pop("subdomain"), "missing"),
        (lambda x: x.update(kind="Job"), "kind"),
        (lambda x: x["metadata"].update(name=3), "name"),
    ],
)
def test_the_schema_refuses(change, message):
    content = made(TPU)
    change(content)
    with pytest.raises(AssertionError, match=message):
        fits(content, SCHEMA)


@pytest.mark.parametrize(
    ("job", "slices", "hosts", "resource", "per_host"),
    [
        (TPU, 1, 64, "google.com/tpu", 4),
        (SLICES, 2, 4, "google.com/tpu", 4),
        (GPU, 1, 4, "nvidia.com/gpu", 8),
    ],
)
def test_one_pod_per_host_with_all_its_chips(job, slices, hosts, resource, per_host):
    one, spec, pod = job_of(job)
    assert one["replicas"] == slices
    assert (spec["parallelism"], spec["completions"]) == (hosts, hosts)
    assert pod["containers"][0]["resources"]["limits"] == {resource: per_host}


def end(job, code, disrupted=False):
    """What becomes of the JobSet when a pod ends so, by the rules of Kubernetes: the first rule of
    the pods that fits decides, "Count" goes against backoffLimit, and the JobSet restarts but where
    a rule of its own names the reason.
    """
    _, spec, _ = job_of(job)
    reason = "BackoffLimitExceeded"
    assert spec["backoffLimit"] == 0
    for rule in spec["podFailurePolicy"]["rules"]:
        hit = disrupted if "onPodConditions" in rule else code in rule["onExitCodes"]["values"]
        if hit:
            reason = {"FailJob": "PodFailurePolicy", "Count": reason}[rule["action"]]
            break
    for rule in made(job)["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (exit_codes.FAILED, False, "FailJobSet"),
        (exit_codes.MISTAKE, False, "FailJobSet"),
        (exit_codes.RETRY, False, "RestartJobSet"),
        (134, False, "RestartJobSet"),
        (137, False, "RestartJobSet"),
        (exit_codes.PREEMPTED, False, "RestartJobSet"),
        (exit_codes.FAILED, True, "RestartJobSet"),  # evicted while it failed: not its fault
    ],
)
def test_exit_codes(code, disrupted, action):
    assert end(TPU, code, disrupted) == action


def test_sigterm_reaches_the_process_and_has_the_grace():
    _, _, pod = job_of(TPU)
    assert pod["containers"][0]["command"][2].startswith("exec qoq train ")
    assert pod["terminationGracePeriodSeconds"] == TPU.grace


def test_slices_have_node_pools_of_their_own():
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert made(SLICES)["metadata"]["annotations"] == {key: "cloud.google.com/gke-nodepool"}
    assert "annotations" not in made(TPU)["metadata"]


def test_gpu_pods_find_the_first_by_its_name_in_the_cluster():
    _, _, pod = job_of(GPU)
    env = {one["name"]: one for one in pod["containers"][0]["env"]}
    assert env["QOQ_COORDINATOR"]["value"] == "qoq-med-7b-worker-0-0.qoq-med-7b:8476"
    assert env["QOQ_PROCESS_COUNT"]["value"] == "4"
    assert "job-completion-index" in env["QOQ_PROCESS_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_secrets_are_references():
    _, _, pod = job_of(TPU)
    env = {one["name"]: one for one in pod["containers"][0]["env"]}
    for name in TPU.secrets:
        assert env[name] == {
            "name": name,
            "valueFrom": {"secretKeyRef": {"name": "qoq-secrets", "key": name}},
        }
