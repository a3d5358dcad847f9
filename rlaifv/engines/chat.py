"""Text chat engines: a transformers model in this process, or an OpenAI-compatible server."""

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from rlaifv.models.loading import Dtype, load_chat_model
from rlaifv.models.quoting import STAND_IN, Quoter, break_markers

Conversation = Sequence[str]
"""What was said in turn: the user first and last, the model between."""

KEY_VARIABLE = "RLAIFV_DIVIDER_KEY"
MAX_REPLY_BYTES = 2**20
TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")
MAX_WAIT_SECONDS = 30.0
_TRY_AGAIN = (408, 409, 425, 429)

logger = logging.getLogger(__name__)


class NoReply(Exception):
    """The reason why a conversation got no reply, returned in the reply's place."""


class Chat(Protocol):
    """Replies to independent conversations, in their order."""

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]: ...


class LocalChat:
    """A transformers model in this process: greedy, in batches of left-padded prompts, loaded on first use.

    Args:
        path: directory or hub id of a language model or an image-text-to-text model.
        revision: of a hub id.
        dtype: of the weights.
        batch_size: conversations run at a time; those of similar length go together.
        max_new_tokens: of a reply.
        keeps_cut: whether replies cut at `max_new_tokens` count.
    """

    def __init__(
        self,
        path: str,
        revision: str | None,
        dtype: Dtype,
        batch_size: int,
        max_new_tokens: int,
        keeps_cut: bool = True,
    ) -> None:
        self.path, self.revision, self.dtype = path, revision, dtype
        self.batch_size, self.max_new_tokens, self.keeps_cut = batch_size, max_new_tokens, keeps_cut
        self._loaded: tuple[Any, Any] | None = None

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        """Reply to all; a conversation that leaves no room for a reply within the model's positions gets none."""
        if not conversations:
            return []
        model, tokenizer = self._load()
        quote = Quoter(tokenizer, self._render([STAND_IN, STAND_IN], model, tokenizer))
        encoded = [self._encode([quote(said) for said in one], model, tokenizer) for one in conversations]
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or float("inf")
        replies: list[str | NoReply] = [NoReply("the conversation is longer than the model can read")] * len(encoded)
        order = sorted((k for k, ids in enumerate(encoded) if len(ids) < limit), key=lambda k: len(encoded[k]))
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            room = int(min(self.max_new_tokens, limit - len(encoded[some[-1]])))
            for k, ids in zip(some, self._generate(model, tokenizer, [encoded[k] for k in some], room), strict=True):
                is_cut = len(ids) == room and ids[-1] not in _ends(model, tokenizer)
                said = tokenizer.decode(ids, skip_special_tokens=True).strip()
                replies[k] = (
                    NoReply(f"the reply had not ended after {room} tokens") if is_cut and not self.keeps_cut else said
                )
        return replies

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            model, tokenizer = load_chat_model(self.path, self.revision, self.dtype)
            self._loaded = model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
        return self._loaded

    @classmethod
    def _encode(cls, quoted: Sequence[str], model: Any, tokenizer: Any) -> list[int]:
        rendered = cls._render(quoted, model, tokenizer)
        starts_itself = bool(tokenizer.bos_token) and rendered.startswith(tokenizer.bos_token)
        return tokenizer(rendered, add_special_tokens=not starts_itself).input_ids

    @staticmethod
    def _render(conversation: Sequence[str], model: Any, tokenizer: Any) -> str:
        """Return the conversation as text, up to where the next reply starts. Texts are trusted here."""
        messages: list[dict[str, Any]] = []
        for k, text in enumerate(conversation):
            # Templates of models that see want a list of parts, most others a string.
            content = [{"type": "text", "text": text}] if hasattr(model.config, "vision_config") else text
            messages.append({"role": "assistant" if k % 2 else "user", "content": content})
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    @staticmethod
    def _generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ends = _ends(model, tokenizer)
        pad = next(iter(ends)) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(ends) or None, pad_token_id=pad
        )
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
        )
        with torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        return [_until(ids, ends) for ids in made[:, width:].tolist()]


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end a reply: the checkpoint's, plus end-of-turn tokens that its configuration lacks."""
    listed = model.generation_config.eos_token_id
    ends = {*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id} - {None}
    vocabulary = tokenizer.get_added_vocab()
    return ends | {vocabulary[end] for end in TURN_ENDS if end in vocabulary}


def _until(ids: list[int], ends: set[int]) -> list[int]:
    """Return a row up to its first end token, without padding."""
    return next((ids[: k + 1] for k, token in enumerate(ids) if token in ends), ids)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects, so that the key reaches only the given address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ServerChat:
    """An OpenAI-compatible server (vLLM, SGLang, …): `POST <url>/chat/completions`, temperature 0.

    A key, if needed, is read from an environment variable for each request and stored nowhere.

    Args:
        url: up to and including the version, as in http://localhost:8000/v1.
        model: its name on the server.
        max_new_tokens: of a reply.
        num_parallel: requests under way at a time.
        timeout_seconds: of one request.
        num_retries: how often a request is sent again after a time-out, a lost connection, or a status that asks for it.
        key_variable: the environment variable that holds the key.

    Raises:
        ValueError: the address is not one of HTTP.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_new_tokens: int,
        num_parallel: int,
        timeout_seconds: float,
        num_retries: int,
        key_variable: str = KEY_VARIABLE,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"A server's url must start with http:// or https://, but it is {url}.")
        self.url, self.model = url.rstrip("/"), model
        self.max_new_tokens, self.num_parallel = max_new_tokens, num_parallel
        self.timeout_seconds, self.num_retries = timeout_seconds, num_retries
        self.key_variable = key_variable
        self._opener = urllib.request.build_opener(_NoRedirect)

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        """Reply to all, several at a time."""
        with ThreadPoolExecutor(self.num_parallel) as pool:
            return list(pool.map(self._reply, conversations))

    def _reply(self, conversation: Conversation) -> str | NoReply:
        messages = [
            {"role": "assistant" if k % 2 else "user", "content": break_markers(said)}
            for k, said in enumerate(conversation)
        ]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_new_tokens}
        reason = ""
        for attempt in range(self.num_retries + 1):
            if attempt:
                time.sleep(min(2.0 ** (attempt - 1), MAX_WAIT_SECONDS))
            try:
                return self._post(json.dumps(body).encode())
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}: {self._without_key(error.read(300).decode(errors='replace'))}"
                if error.code not in _TRY_AGAIN and error.code < 500:
                    break
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
            ) as error:  # no connection, a time-out, or no such reply
                reason = f"{type(error).__name__}: {self._without_key(str(error))[:300]}"
        return NoReply(f"{self.url} gave no reply ({' '.join(reason.split())})")

    def _post(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers)  # noqa: S310 - checked in __init__
        with self._opener.open(request, timeout=self.timeout_seconds) as answer:
            said = json.loads(answer.read(MAX_REPLY_BYTES))["choices"][0]["message"]["content"]
        if not isinstance(said, str):
            raise TypeError("the reply is no text")
        return said.strip()

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.key_variable)
        return text.replace(key, "***") if key else text
