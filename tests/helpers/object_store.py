"""A real S3 server (moto) on this machine, and the environment that leads to it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import urllib.request

import boto3
import fsspec
from fsspec.implementations import memory
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from qoq_jax.base import objects

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",  # the client's own; those of qoq_jax stay
    "NO_PROXY": "127.0.0.1",
}
_refuse = {"status": 0, "times": 0}
_requests = []  # METHOD PATH of each since the server began
_clients = []  # kept alive: their ends would warn


class _Refusing:
    """A server that answers some requests with an error of its own."""

    def __init__(self, served):
        self._served = served

    def __call__(self, environ, start_response):
        _requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if not _refuse["times"]:
            return self._served(environ, start_response)
        _refuse["times"] -= 1
        start_response(f"{_refuse['status']} refused", [("Content-Type", "application/xml")])
        return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"]


@contextlib.contextmanager
def refusing(status, times):
    """Inside, the server answers the next requests with a status; all of them must be made."""
    _refuse.update(status=status, times=times)
    try:
        yield
        assert not _refuse["times"], "too few requests"
    finally:
        _refuse["times"] = 0


@contextlib.contextmanager
def counting():
    """Yields a list that has, after the block, the requests that the server got in it."""
    found, before = [], len(_requests)
    yield found
    found += _requests[before:]


@contextlib.contextmanager
def s3_server():
    """Starts the server; yields the environment of its clients. This process is one."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    served = _Refusing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    forget_clients()
    reset = urllib.request.Request(f"{environment['AWS_ENDPOINT_URL']}/moto-api/reset", b"")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(reset).close()
    try:
        yield environment
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        forget_clients()
        server.shutdown()
        server.server_close()
        thread.join()


def forget_clients():
    """The next call makes a client from the environment as it is then."""
    _clients.append(dict(objects._systems))
    objects._systems.clear()


def make_bucket(name):
    objects.system(f"s3://{name}").mkdir(name)


@contextlib.contextmanager
def raw_key(url, key):
    """Inside, there is an object below a URL with this very key, past all clients that tidy up."""
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if url.startswith("memory"):
        store, path = fsspec.filesystem("memory"), f"/{bucket}/{prefix}/{key}"
        store.store[path] = memory.MemoryFile(store, path, b"evil")
        try:
            yield
        finally:
            del store.store[path]
        return
    client, place = boto3.client("s3"), {"Bucket": bucket, "Key": f"{prefix}/{key}"}
    client.put_object(**place, Body=b"evil")
    try:
        yield
    finally:
        client.delete_object(**place)


def empty_memory():
    """Takes all objects out of memory://."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
