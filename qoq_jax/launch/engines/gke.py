"""Google Kubernetes Engine with JobSet: the YAML of a JobSet (jobset.x-k8s.io/v1alpha2).

One replicated job per slice, one pod per host. JobSet makes the headless service that names the
pods, and starts all of them again when one fails (https://jobset.sigs.k8s.io/docs/reference).
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from qoq_jax.launch import place, process
from qoq_jax.launch.engines import tpu_vm
from qoq_jax.launch.place import Place
from qoq_jax.launch.spec import Job

SUFFIX = ".yaml"
SECRET = "qoq-secrets"  # the Secret of the cluster that holds job.secrets
_WORKER = "worker"
_CONTAINER = "qoq"
# Labels of node pools (docs.cloud.google.com/kubernetes-engine/docs/concepts/tpus and .../gpus).
_TPU = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
_GPU = {
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
DEVICES = (*_TPU, *_GPU)


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key, as Kubernetes' own pages have them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Text of several lines as such."""
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(content: dict[str, Any]) -> str:
    """YAML in the order given."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


def render(job: Job) -> str:
    """The YAML, under a comment with the secrets to create and the command of xpk."""
    at = place.of(job)
    head = [process.headline(job, "gke") + "."]
    if job.secrets:
        files = " ".join(f"--from-file={name}=FILE" for name in job.secrets)
        head += [
            "Secrets, once a cluster (each value in a file that only you can read):",
            f"  kubectl create secret generic {SECRET} {files}",
        ]
    if at.kind == "tpu" and at.device in tpu_vm.DEVICES:
        head += ["With xpk, without the secrets and the environment:", f"  {_xpk(job, at)}"]
    return "".join(f"# {line}\n" for line in head) + to_yaml(job_set(job))


def job_set(job: Job) -> dict[str, Any]:
    """The JobSet as data."""
    at = place.of(job)
    # One slice to a node pool: else the pods of two slices could mix.
    alone = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    one: dict[str, Any] = {
        "parallelism": at.hosts,
        "completions": at.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a lost pod ends its job, and JobSet starts all again
        "podFailurePolicy": {"rules": _rules()},
        "template": {"spec": _pod(job, at)},
    }
    if job.hours:
        one["activeDeadlineSeconds"] = round(job.hours * 3600)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name, **({"annotations": alone} if at.slices > 1 else {})},
        "spec": {
            "network": {
                "enableDNSHostnames": True,  # makes the headless service
                "publishNotReadyAddresses": True,
                "subdomain": job.name,
            },
            "successPolicy": {"operator": "All"},
            "failurePolicy": {
                "maxRestarts": job.max_restarts,
                # Without it JobSet would restart what the pods' policy has failed for good, and
                # what has used up its hours.
                "rules": [
                    {
                        "name": "failsAgain",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": _WORKER, "replicas": at.slices, "template": {"spec": one}},
            ],
        },
    }


def commands(job: Job, action: str) -> list[list[str]]:
    """Command lines of an action; process.FILE stands for the rendered YAML."""
    of_cluster = f"gke_{job.project}_{job.zone}_{job.cluster}"  # as get-credentials names it
    kubectl = ["kubectl", f"--context={of_cluster}"]
    pods = f"jobset.sigs.k8s.io/jobset-name={job.name}"
    if action == "submit":
        login = ["gcloud", "container", "clusters", "get-credentials", job.cluster]
        where = [f"--project={job.project}", f"--location={job.zone}"]
        return [[*login, *where], [*kubectl, "apply", "--filename", process.FILE]]
    if action == "status":
        return [
            [*kubectl, "get", "jobset", job.name],
            [*kubectl, "get", "pods", f"--selector={pods}", "--output=wide"],
        ]
    if action == "logs":
        first = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        return [[*kubectl, "logs", "--follow", "--tail=200", f"--selector={pods},{first}"]]
    return [[*kubectl, "delete", "jobset", job.name]]


def _rules() -> list[dict[str, Any]]:
    """What a failed pod does to its job; the first rule that fits is taken.

    A pod that was evicted counts as lost whatever its exit code, so that rule is first. "Count"
    with backoffLimit 0 ends the job in a way that JobSet restarts; FailJob in one that it does not.
    """
    return [
        {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": _codes(process.FAIL)},
        {"action": "Count", "onExitCodes": _codes(process.RESTART)},
    ]


def _codes(values: tuple[int, ...]) -> dict[str, Any]:
    return {"containerName": _CONTAINER, "operator": "In", "values": list(values)}


def _pod(job: Job, at: Place) -> dict[str, Any]:
    resource = "google.com/tpu" if at.kind == "tpu" else "nvidia.com/gpu"
    amount = {resource: at.per_host}
    command = process.line(job, distributed=at.kind == "tpu" and at.all_hosts > 1)
    container = {
        "name": _CONTAINER,
        "image": job.image,
        # exec: SIGTERM reaches the process, not a shell around it.
        "command": ["bash", "-c", f"exec {command}"],
        "env": _environment(job, at),
        "resources": {"requests": amount, "limits": amount.copy()},
        # Workers of the data pipeline pass batches through it; 64 MiB is the default.
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    if at.kind == "tpu":
        container["ports"] = [{"containerPort": port} for port in (8471, process.JAX_PORT)]
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace,
        "nodeSelector": _nodes(job, at),
        "tolerations": [
            {"key": resource, "operator": "Exists", "effect": "NoSchedule"},
            *(
                [{"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"}]
                if job.spot
                else []
            ),
        ],
        "containers": [container],
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }


def _nodes(job: Job, at: Place) -> dict[str, str]:
    if at.kind == "tpu":
        found = {
            "cloud.google.com/gke-tpu-accelerator": _TPU[at.device],
            "cloud.google.com/gke-tpu-topology": at.grid,
        }
    else:
        found = {"cloud.google.com/gke-accelerator": _GPU[at.device]}
    if job.spot:
        found["cloud.google.com/gke-spot"] = "true"
    if job.reservation:
        found["cloud.google.com/reservation-name"] = job.reservation
    return found


def _environment(job: Job, at: Place) -> list[dict[str, Any]]:
    """On TPUs GKE tells JAX of the others; on GPUs the pods' names do."""
    found: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in process.environment(job).items()
    ]
    if at.kind == "gpu" and at.hosts > 1:
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        first = f"{job.name}-{_WORKER}-0-0.{job.name}:{process.PORT}"
        found += [
            {"name": process.COORDINATOR, "value": first},
            {"name": process.COUNT, "value": str(at.hosts)},
            {"name": process.INDEX, "valueFrom": {"fieldRef": {"fieldPath": index}}},
        ]
    for name in job.secrets:
        key = {"name": SECRET, "key": name}
        found.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    return found


def _xpk(job: Job, at: Place) -> str:
    """xpk restarts on 42 and 127 to 255 by itself."""
    words = ["xpk", "workload", "create", f"--workload={job.name}", f"--cluster={job.cluster}"]
    words += [f"--project={job.project}", f"--zone={job.zone}"]
    words += [f"--tpu-type={tpu_vm.accelerator_type(at)}", f"--num-slices={at.slices}"]
    words += [f"--docker-image={job.image}", f"--max-restarts={job.max_restarts}"]
    words += [f"--termination-grace-period-seconds={job.grace}"]
    words += [f"--command={process.line(job, at.all_hosts > 1)}"]
    return shlex.join(words)
