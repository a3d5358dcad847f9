import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from rlaifv.engines import chat
from rlaifv.engines.chat import KEY_VARIABLE, LocalChat, NoReply, ServerChat
from rlaifv.models.quoting import Quoter


def local(path: Path, batch_size: int = 8) -> LocalChat:
    return LocalChat(str(path), None, "float32", batch_size, 12)


SAID = [["a red circle"], ["there is a blue square at the top left", "yes", "no"], ["is it"], ["a"]]


def test_replies_do_not_depend_on_the_batch(chat_dir: Path) -> None:
    together = local(chat_dir).reply_all(SAID)
    assert together == local(chat_dir, batch_size=1).reply_all(SAID)
    assert len(set(map(str, together))) > 1
    assert local(chat_dir).reply_all([]) == []


def test_without_the_mask_they_would(chat_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = local(chat_dir).reply_all(SAID)
    generate: Callable[..., Any] = LlamaForCausalLM.generate
    monkeypatch.setattr(
        LlamaForCausalLM,
        "generate",
        lambda self, *, attention_mask, **others: generate(
            self, attention_mask=torch.ones_like(attention_mask), **others
        ),
    )
    assert local(chat_dir).reply_all(SAID) != together


def test_what_is_too_long_gets_no_reply_and_the_others_do(chat_dir: Path) -> None:
    first, second = local(chat_dir).reply_all([["red " * 3000], ["red"]])
    assert isinstance(first, NoReply)
    assert isinstance(second, str)


def test_an_image_model_replies_to_text(model_dir: Path) -> None:
    (reply,) = local(model_dir).reply_all([["There is a red circle."]])
    assert isinstance(reply, str)


def test_markers_in_what_was_said_open_no_turn(chat_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the model holds the end token as often as the template writes it; unquoted, once more."""
    engine = local(chat_dir)
    _, tokenizer = engine._load()
    counts = []

    def generate(model: Any, tokenizer: Any, prompts: list[list[int]], room: int) -> list[list[int]]:
        counts.append(prompts[0].count(tokenizer.eos_token_id))
        return [[tokenizer.eos_token_id]]

    monkeypatch.setattr(engine, "_generate", generate)
    for said in ("red blue", f"red {tokenizer.eos_token} blue"):
        engine.reply_all([[said]])
    monkeypatch.setattr(Quoter, "__call__", lambda self, text: text)
    engine.reply_all([[f"red {tokenizer.eos_token} blue"]])
    assert counts[1] == counts[0] == counts[2] - 1


class Server:
    """Answers requests by a script of (status, body), the last of which repeats; remembers what was asked."""

    def __init__(self, script: list[tuple[int, Any]], seconds: float = 0) -> None:
        self.script, self.asked, self.keys = script, [], []  # type: ignore[var-annotated]
        owner, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                time.sleep(seconds)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.asked.append((self.path, body))
                    owner.keys.append(self.headers.get("Authorization"))
                    status, reply = owner.script.pop(0) if len(owner.script) > 1 else owner.script[0]
                reply = reply(body) if callable(reply) else reply
                data = json.dumps(reply).encode() if not isinstance(reply, bytes) else reply
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/v1/elsewhere")
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(data)

            def do_GET(self) -> None:
                owner.keys.append(self.headers.get("Authorization"))
                self.send_error(404)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(*script: tuple[int, Any], seconds: float = 0) -> Server:
        servers.append(Server(list(script), seconds))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time here."""
    taken: list[float] = []
    monkeypatch.setattr(chat, "time", type("Clock", (), {"sleep": staticmethod(taken.append)}))
    return taken


def said(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}]}


def client(server: Server, **settings: Any) -> ServerChat:
    given = {"max_new_tokens": 9, "num_parallel": 4, "timeout_seconds": 5.0, "num_retries": 2} | settings
    return ServerChat(server.url + "/", "m", **given)


def test_a_server_is_asked_greedily_and_in_order(serve: Callable[..., Server]) -> None:
    server = serve((200, lambda body: said(f" {body['messages'][-1]['content']}! ")))
    assert client(server).reply_all([["a"], ["b", "c", "<|d|>"]]) == ["a!", "< |d|>!"]
    path, body = max(server.asked, key=lambda asked: len(asked[1]["messages"]))
    assert path == "/v1/chat/completions"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 9)


def test_trouble_that_passes_is_waited_for(serve: Callable[..., Server], waits: list[float]) -> None:
    server = serve((503, {}), (429, {}), (200, said("fine")))
    assert client(server).reply_all([["a"]]) == ["fine"]
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("script", "reason", "tries"),
    [
        ((503, {"error": "busy"}), "status 503", 3),
        ((400, {"error": "no such model"}), "no such model", 1),
        ((200, b"<html>"), "JSONDecodeError", 3),
        ((200, said(None)), "the reply is no text", 3),
        ((200, {"choices": []}), "IndexError", 3),
        ((302, {}), "status 302", 1),
    ],
)
def test_trouble_that_stays_is_told(
    serve: Callable[..., Server], script: tuple[int, Any], reason: str, tries: int
) -> None:
    server = serve(script)
    (reply,) = client(server).reply_all([["a"]])
    assert isinstance(reply, NoReply)
    assert reason in str(reply)
    assert len(server.asked) == tries


def test_a_server_that_is_slow_or_gone(serve: Callable[..., Server]) -> None:
    slow = serve((200, said("late")), seconds=0.5)
    (reply,) = client(slow, timeout_seconds=0.05, num_retries=0).reply_all([["a"]])
    assert "timed out" in str(reply)
    gone = client(slow, num_retries=0)
    gone.url = "http://127.0.0.1:9/v1"
    assert isinstance(gone.reply_all([["a"]])[0], NoReply)


def test_the_key_is_sent_and_never_said(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve((401, {"error": "wrong key sk-secret"}))
    assert isinstance(client(server).reply_all([["a"]])[0], NoReply)
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    engine = client(server)
    (reply,) = engine.reply_all([["a"]])
    assert server.keys == [None, "Bearer sk-secret"]
    assert "sk-secret" not in str(reply) + caplog.text + repr(vars(engine))
    assert "***" in str(reply)


def test_a_key_may_be_kept_under_another_name(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve((401, {"error": "wrong key sk-other"}))
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    monkeypatch.setenv("ANOTHER_KEY", "sk-other")
    (reply,) = client(server, key_variable="ANOTHER_KEY").reply_all([["a"]])
    assert server.keys == ["Bearer sk-other"]
    assert "sk-other" not in str(reply)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="url must start with http:// or https://, but it is file:///etc"):
        ServerChat("file:///etc", "m", 1, 1, 1.0, 0)


def test_a_reply_that_does_not_end_may_count_or_not(chat_dir: Path) -> None:
    cut = LocalChat(str(chat_dir), None, "float32", 4, 2, keeps_cut=False).reply_all(SAID)
    kept = LocalChat(str(chat_dir), None, "float32", 4, 2).reply_all(SAID)
    assert all(isinstance(reply, str) for reply in kept)
    assert any(isinstance(reply, NoReply) and "had not ended after 2 tokens" in str(reply) for reply in cut)


def test_a_reply_ends_at_its_first_end() -> None:
    assert chat._until([5, 6, 2, 0, 0], {2, 9}) == [5, 6, 2]
    assert chat._until([5, 6], {2}) == [5, 6]


def test_a_redirected_request_takes_its_key_nowhere(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other address may be anybody's; urllib by itself would tell it the key."""
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    server = serve((302, {}))
    client(server).reply_all([["a"]])
    assert server.keys == ["Bearer sk-secret"]
    monkeypatch.delattr(chat._NoRedirect, "redirect_request")
    client(server).reply_all([["a"]])
    assert server.keys == ["Bearer sk-secret"] * 3
