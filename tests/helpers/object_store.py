"""A real S3 server (moto) on this machine, and the environment that leads to it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket

import fsspec
from moto.server import ThreadedMotoServer

from qoq_jax.base import objects

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


@contextlib.contextmanager
def s3_server():
    """Starts the server; yields the environment of its clients. This process is one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield environment
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        forget_clients()
        server.stop()


def forget_clients():
    """The next call makes a client of the environment as it is then."""
    objects._systems.clear()


def make_bucket(name):
    objects.system(f"s3://{name}").mkdir(name)


def empty_memory():
    """Takes all objects out of memory://."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
