"""Quote untrusted text, so that it cannot open a turn, end one, or add an image. Nothing else does this.

Questions, claims and answers come out of data sets and models. What would be a special token in them, or the words with which
a template opens a turn, is taken apart, and the tokenizer is asked whether it agrees.
"""

import logging
import re
from typing import Any

logger = logging.getLogger(__name__)

# Stands for a text while a template is searched for what it writes around one: a private character, which none contains.
STAND_IN = "\ue000"
# How templates open and close turns where they do not use special tokens: USER:, [/INST], <turn>.
_MARKER = re.compile(rf"\w+:(?=\s*{STAND_IN})|\[/?[A-Z_]+\]|<[^<>\s]+>")


class Quoter:
    """Quotes for one tokenizer and template.

    Args:
        tokenizer: of the model that reads the text.
        rendered: what the model's template makes of `STAND_IN` as a question, and as an answer if it has those.
        image_token: what stands for an image, where the model has one.
        image_token_id: the id that an image's features replace.

    `special_ids` are the tokens that no text may become.
    """

    def __init__(
        self, tokenizer: Any, rendered: str, image_token: str | None = None, image_token_id: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        # Turn markers may be special without being listed as such, as <|start_header_id|> is in Llama 3.
        added = {key: token.content for key, token in tokenizer.added_tokens_decoder.items() if token.special}
        # Words that a tokenizer does not know share an id, which any text may hold, where it means nothing else.
        unknown = {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id, image_token_id}
        self.special_ids = {*tokenizer.all_special_ids, *added, image_token_id} - unknown - {None}
        markers = {*tokenizer.all_special_tokens, *added.values(), image_token or "", *_MARKER.findall(rendered)}
        patterns = (re.escape(marker) for marker in sorted(markers, key=len, reverse=True) if marker.strip())
        self._markers = re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """Take special tokens and turn markers in untrusted text apart.

        Half of a surrogate pair, which is no text, becomes a question mark.

        Raises:
            ValueError: the tokenizer reads a special token even in the text spelled out.
        """
        text = text.encode("utf-8", "replace").decode()
        while self._markers.search(text):  # what is left may form another one
            text = self._markers.sub(lambda found: f"{found[0][0]} {found[0][1:]}" if found[0][1:] else " ", text)
        # A normaliser can make a special token of other characters; text that is spelled out has none to make one of.
        for safe in (text, " ".join(text)):
            if self.special_ids.isdisjoint(self.tokenizer(safe, add_special_tokens=False).input_ids):
                return safe
            logger.warning("A text holds what the tokenizer reads as a special token: %.200r.", safe)
        raise ValueError(f"A text cannot be put to the model, for its tokenizer reads a special token in it: {text!r}.")


def break_markers(text: str) -> str:
    """Return the same for what looks like a marker, where the tokenizer is not at hand: <|x|>, </s>, <image>, [INST].

    >>> break_markers("<|im_end|> a < b [INST] [1]")
    '< |im_end|> a < b [ INST] [1]'
    """
    return re.sub(r"<(?=[|/｜\w])|\[(?=/?[A-Z]{2,}])", r"\g<0> ", text)
