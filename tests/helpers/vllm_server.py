"""A server that answers as vLLM does, with the package's own sampler: chat completions of text and
images with token ids and log-probabilities, and weights loaded from a folder.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import threading
import time

import jax
import numpy as np
from PIL import Image

from qoq_jax import hf
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.sampling import model as model_lib

# What vLLM takes from a model's generation_config.json where a request does not say it, and the
# values that change no probability: this package's sampler can do nothing else.
GENERATION_CONFIG = {
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.05,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
}
OFF = {
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}


class FakeVllm:
    """Attributes:
    url: where it listens. loaded: folders of weights, in order. posts: (path, body) of requests.
    headers: of requests, in the same order.
    extra: tokens put before the prompt ids that it returns, for a server with another template.
    dev_mode: whether it takes new weights.
    drop: so many of the next requests get no answer: their connection is closed.
    delay: seconds before an answer.
    refusal: (status, headers, JSON) that answers everything; None = what was asked for.
    change: called on each completion before it is sent.
    """

    def __init__(self):
        self.loaded, self.posts, self.headers = [], [], []
        self._model, self._lock = None, threading.Lock()
        self.behave()

    def behave(self) -> None:
        """Does from now on what a healthy server does."""
        self.extra, self.dev_mode, self.drop, self.delay = [], True, 0, 0.0
        self.refusal, self.change = None, lambda found: found

    def drops(self) -> bool:
        with self._lock:
            self.drop -= 1
            return self.drop >= 0

    def answer(self, path: str, body: dict | None) -> tuple[int, object]:
        with self._lock, jax.transfer_guard("allow"):
            self.posts.append((path, body))
            if path == "/v1/models":
                return 200, {"data": [{"id": "served"}]}
            if path == "/v1/chat/completions":
                said = GENERATION_CONFIG | body
                if wrong := [name for name, off in OFF.items() if said[name] not in off]:
                    return 400, {"error": {"type": "Sampled_otherwise_by_" + "_".join(wrong)[:18]}}
                return 200, self.change(self._complete(body))
            if not self.dev_mode:
                return 404, {"detail": "Not Found"}
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                self._load(body["kwargs"]["weights_path"])
            return 200, None

    def _load(self, folder: str) -> None:
        cfg, params = hf.load(folder, None, "float32")
        tokenizer = tokenizer_lib.load(tokenizer_lib.NANO)
        cfg = model_lib.inference_config(cfg, "float32")
        self._model = model_lib.Model(cfg, params, tokenizer)
        self.loaded.append(folder)

    def _complete(self, body: dict) -> dict:
        model, images, text = self._model, [], ""
        *system, user = body["messages"]
        assert [turn["role"] for turn in body["messages"]] == ["system"] * len(system) + ["user"]
        content = user["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            if part["type"] == "text":
                text += part["text"]
                continue
            text += "<image>"
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            images.append(np.asarray(Image.open(io.BytesIO(data))))
        limits = body.get("mm_processor_kwargs", {})
        model.process = dataclasses.replace(
            model.process, system=system[0]["content"] if system else "", **limits
        )
        sample = {"prompt": text} | ({"images": images} if images else {})
        (responses,) = model.generate(
            [sample],
            body["max_tokens"],
            seed=body["seed"],
            num_samples=body["n"],
            temperature=body["temperature"],
            top_p=body["top_p"],
        )
        ids = model.prepare([sample])[0]["input_ids"]
        return {
            "prompt_token_ids": self.extra + list(map(int, ids)),
            "choices": [
                {
                    "index": g,
                    "finish_reason": "stop" if one.token_ids[-1] in model.cfg.eos_ids else "length",
                    "token_ids": one.token_ids.tolist(),
                    "logprobs": {"content": [{"logprob": float(x)} for x in one.logprobs]},
                }
                for g, one in enumerate(responses)
            ],
        }


@contextlib.contextmanager
def serving():
    """A running `FakeVllm`."""
    fake = FakeVllm()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            self._answer(json.loads(self.rfile.read(length) or b"null"))

        def _answer(self, body: object) -> None:
            fake.headers.append(self.headers)
            time.sleep(fake.delay)
            if fake.drops():
                return
            if fake.refusal is None:
                status, found = fake.answer(self.path, body)
                self._send(status, {}, found)
            else:
                self._send(*fake.refusal)

        def _send(self, status: int, headers: dict[str, str], found: object) -> None:
            content = b"" if found is None else json.dumps(found).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # it may not have waited
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
