"""Render conversations with a model's chat template. Texts must be quoted already, see `models.quoting`."""

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from rlaifv.models.quoting import STAND_IN


class ChatTemplate:
    """Renders conversations with a processor's own template.

    Images come before the text of the first user turn. A system message is a turn of its own if the template has one; else it
    is put before that text, separated by an empty line.

    Args:
        processor: of the model.

    Raises:
        ValueError: the processor has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
            raise ValueError(
                "The model's processor has no chat template, so its prompts cannot be built; "
                "put a chat_template.jinja beside its weights."
            )
        self.processor = processor
        self.has_system_turn = self._tells_system_from_others()
        self.has_history = self._keeps_earlier_turns()

    def render(
        self,
        question: str,
        num_images: int,
        answer: str | None = None,
        system: str = "",
        history: Sequence[str] = (),
    ) -> str:
        """Return the conversation as text: up to where the answer starts, or through the answer if given.

        Args:
            question: of the last user turn.
            num_images: that stand before the first user turn.
            answer: to the question.
            system: message, empty where there is none.
            history: texts of the turns before, the user's and the assistant's in alternation.

        Raises:
            ValueError: the template takes no conversation of several turns.
        """
        if history and not self.has_history:
            raise ValueError(
                "The chat template has no place for earlier turns, so the conversation cannot be put to it."
            )
        if system and not self.has_system_turn:
            first, *rest = (*history, question)
            *history, question = (f"{system}\n\n{first}", *rest)
            system = ""
        turns = [*history, question, *(() if answer is None else (answer,))]
        messages = [_message("assistant" if k % 2 else "user", text) for k, text in enumerate(turns)]
        messages[0]["content"] = [*({"type": "image"} for _ in range(num_images)), *messages[0]["content"]]
        return self._apply([_message("system", system), *messages] if system else messages, is_open=answer is None)

    @property
    def sample(self) -> str:
        """The template's own text: a conversation with a turn of every kind, and `STAND_IN` as every text."""
        history = (STAND_IN, STAND_IN) if self.has_history else ()
        return self.render(STAND_IN, 0, STAND_IN, STAND_IN if self.has_system_turn else "", history)

    def _apply(self, messages: list[dict[str, Any]], is_open: bool = True) -> str:
        rendered: str = self.processor.apply_chat_template(messages, add_generation_prompt=is_open, tokenize=False)
        return rendered

    def _tells_system_from_others(self) -> bool:
        """Return whether the template has a system turn. Others refuse it, drop it, or give it to another role."""
        question = _message("user", "?")
        rendered = self._try([_message("system", STAND_IN), question])
        others = [self._try([_message(role, STAND_IN), question]) for role in ("user", "assistant")]
        return rendered.count(STAND_IN) == 1 and rendered not in others

    def _keeps_earlier_turns(self) -> bool:
        roles = ("user", "assistant", "user")
        return self._try([_message(role, STAND_IN) for role in roles]).count(STAND_IN) == len(roles)

    def _try(self, messages: list[dict[str, Any]]) -> str:
        """Render messages; return an empty text if the template refuses them."""
        try:
            return self._apply(messages)
        except (TemplateError, TypeError):
            return ""


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
