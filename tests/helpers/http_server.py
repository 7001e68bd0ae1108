"""A local HTTP server that misbehaves as told, for tests of downloads."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import re
import socket
import struct
import threading
from urllib.parse import unquote, urlsplit


@dataclasses.dataclass
class Served:
    """What stands at one address.

    Attributes:
      body: its bytes.
      headers: more of them.
      faults: what to do to the next requests, one each: ("status", code, headers), ("cut", n) and
        ("reset", n) after n bytes, ("late", seconds) before the headers, ("stall", n, seconds) and
        ("gate", n) after n bytes, ("trickle", n, seconds) n single bytes, ("swap", body) from now
        on.
      ranges, conditions: whether Range and If-Range are understood.
      validator: "etag", "date" or "".
      chunked: no Content-Length. login: "user:password". redirect: to there.
    """

    body: bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)
    faults: list = dataclasses.field(default_factory=list)
    ranges: bool = True
    conditions: bool = True
    validator: str = "etag"
    chunked: bool = False
    login: str = ""
    redirect: str = ""
    status: int = 200


class Server:
    """Serves `pages` by path with query (as asked, or unquoted), and keeps what was asked."""

    def __init__(self):
        self.pages: dict[str, Served] = {}
        self.requests: list[tuple[str, str, dict]] = []
        self.gate = threading.Event()
        self.reached = threading.Event()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    def __enter__(self):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two packets

            def do_GET(self):
                with owner.lock:
                    owner.busy += 1
                    owner.most_busy = max(owner.busy, owner.most_busy)
                try:
                    with contextlib.suppress(ConnectionError):
                        owner.answer(self)
                finally:
                    with owner.lock:
                        owner.busy -= 1

            def do_POST(self):
                self.posted = self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.base = f"http://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def put(self, path: str, body: bytes = b"", **options) -> Served:
        self.pages[path] = Served(body, **options)
        return self.pages[path]

    def asked(self, path: str) -> list[dict]:
        """The headers of each request to a path, in order."""
        return [headers for _, one, headers in self.requests if one == path]

    # ----------------------------------------------------------------------------------- answering

    def answer(self, handler):
        path = handler.path
        self.requests.append((handler.command, path, dict(handler.headers)))
        page = self.pages.get(path) or self.pages.get(unquote(path))
        page = page or self.pages.get(unquote(urlsplit(path).path))
        if page is None:
            return _send(handler, 404, {}, b"no such page")
        fault = page.faults.pop(0) if page.faults else ("none",)
        if fault[0] == "late":
            self.gate.wait(fault[1])
        if fault[0] == "swap":
            page.body = fault[1]
        if fault[0] == "status":
            return _send(handler, fault[1], fault[2], b"wait")
        if page.login and handler.headers.get("Authorization") != _basic(page.login):
            return _send(handler, 401, {"WWW-Authenticate": 'Basic realm="here"'}, b"who are you?")
        if page.redirect:
            return _send(handler, 302, {"Location": page.redirect}, b"")
        status, body, headers = page.status, page.body, dict(page.headers)
        if page.validator == "etag":
            headers["ETag"] = etag = f'"{hashlib.md5(page.body).hexdigest()}"'
        elif page.validator == "date":
            headers["Last-Modified"] = etag = f"Thu, 01 Jan 1970 00:00:{len(page.body) % 60:02} GMT"
        else:
            etag = None
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = handler.headers.get("If-Range", etag) == etag or not page.conditions
        if asked and page.ranges and same:
            start = int(asked[1])
            if start >= len(body):
                return _send(handler, 416, {"Content-Range": f"bytes */{len(body)}"}, b"")
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        return self.send_body(handler, status, headers, body, fault, page.chunked)

    def send_body(self, handler, status, headers, body, fault, chunked):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()

        def write(piece):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            handler.wfile.flush()

        if fault[0] == "trickle":
            for at in range(fault[1]):
                write(body[at : at + 1])
                self.gate.wait(fault[2])
            handler.close_connection = True
            return
        if fault[0] in ("cut", "reset", "stall", "gate"):
            write(body[: fault[1]])
            if fault[0] == "reset":
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif fault[0] == "stall":
                self.gate.wait(fault[2])
            elif fault[0] == "gate":
                self.reached.set()
                self.gate.wait(60)
            if fault[0] != "gate":
                handler.close_connection = True
                handler.connection.close()
                return
            body = body[fault[1] :]
        if body:
            write(body)
        if chunked:
            handler.wfile.write(b"0\r\n\r\n")


def _send(handler, status, headers, body):
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()
