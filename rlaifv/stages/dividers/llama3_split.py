"""Division of answers into claims and questions by the two Llama-3-8B models that RLAIF-V's authors tuned for it.

One lists the facts of an answer ("### Facts:", then bullets), the other turns a list of sentences into questions
("### Modified sentences:", then bullets). Unlike the released code, this module checks that there are as many questions
as claims and that each question is about its own claim.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from rlaifv.engines.chat import Chat, LocalChat, NoReply
from rlaifv.models.loading import Dtype
from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.chat import UnusableReply, check_meaning, check_texts
from rlaifv.stages.dividers.content import content_words
from rlaifv.stages.dividers.protocol import NotDivided

FACTS, SENTENCES = "### Facts:", "### Modified sentences:"
# Our own wording; the surrounding formats are those the two models were tuned on.
SPLIT_PROMPT = """\
List the facts that an answer to a question about an image states. Write each as a sentence that is understood alone, and \
leave out opinions and subjective remarks.

Use this format:
### Facts:
- {first fact}
- {second fact}
- ...

### Question-answer pair:
Question: <question>
Answer: <answer>"""
QUESTION_PROMPT = """\
Turn each of these sentences into a question that is answered by yes or no. Keep the tense, add nothing, and keep a \
negation where there is one.

Use this format:
### Modified sentences:
- {first question}
- {second question}
- ...

### Declarative sentences:
<claims>"""
# Limits of the released code, words per prompt and tokens per reply; the tail of a long answer is lost.
RELEASED_WORDS, RELEASED_TOKENS = 300, 256


class Llama3SplitDivider:
    """Divides answers by two tuned models in sequence, with greedy decoding.

    Args:
        split_path: directory or hub id of the model that lists facts.
        question_path: directory or hub id of the model that writes questions.
        dtype: of their weights.
        batch_size: answers divided per batch.
        truncate: whether to truncate prompts and replies as the released code does; claims then need not be about the
            answer.
        max_new_tokens: of a reply, if `truncate` is off; longer replies count as failed.
        max_claims: of an answer; further claims are left out, as in the rules divider.
        split_prompt: text file to replace `SPLIT_PROMPT`, containing <question> and <answer>.
        question_prompt: text file to replace `QUESTION_PROMPT`, containing <claims>.

    Raises:
        ValueError: a number is below 1, or a prompt lacks its placeholders.
        OSError: a prompt file cannot be read.
    """

    def __init__(
        self,
        *,
        split_path: str,
        question_path: str,
        dtype: Dtype = "bfloat16",
        batch_size: int = 8,
        truncate: bool = False,
        max_new_tokens: int = 1024,
        max_claims: int = 50,
        split_prompt: str | None = None,
        question_prompt: str | None = None,
    ) -> None:
        if min(batch_size, max_new_tokens, max_claims) < 1:
            raise ValueError("The divider's batch_size, max_new_tokens and max_claims must be at least 1.")
        self.truncate, self.max_claims = truncate, max_claims
        self.split_prompt = _read("split_prompt", split_prompt, SPLIT_PROMPT, ("<question>", "<answer>"))
        self.question_prompt = _read("question_prompt", question_prompt, QUESTION_PROMPT, ("<claims>",))
        num_tokens = RELEASED_TOKENS if truncate else max_new_tokens
        self.splitter: Chat = LocalChat(split_path, None, dtype, batch_size, num_tokens, keeps_cut=truncate)
        self.asker: Chat = LocalChat(question_path, None, dtype, batch_size, num_tokens, keeps_cut=truncate)
        prompts = hashlib.sha256((self.split_prompt + self.question_prompt).encode()).hexdigest()
        made_by = {"split": split_path, "question": question_path, "prompts": prompts, "truncate": truncate}
        self.producer = json.dumps({**made_by, "max_new_tokens": num_tokens, "max_claims": max_claims})

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
        """Divide all answers: list the facts of all, then write questions. An empty answer has no claims."""
        asked = [k for k, (_, response) in enumerate(pairs) if response.text.strip()]
        replies = self.splitter.reply_all([[self._split_message(*pairs[k])] for k in asked])
        facts = {k: _bullets(reply, FACTS) for k, reply in zip(asked, replies, strict=True)}
        claims = {k: found[: self.max_claims] for k, found in facts.items() if not isinstance(found, NotDivided)}
        unworded = [k for k, found in claims.items() if found]
        replies = self.asker.reply_all([[self._question_message(claims[k])] for k in unworded])
        questions = {k: _bullets(reply, SENTENCES) for k, reply in zip(unworded, replies, strict=True)}
        return [
            found
            if isinstance(found := facts.get(k, []), NotDivided)
            else self._joined(pair, found, questions.get(k, []))
            for k, pair in enumerate(pairs)
        ]

    def _split_message(self, prompt: Prompt, response: Response) -> str:
        places = {"question": prompt.question, "answer": response.text}
        text = re.sub("<(question|answer)>", lambda place: places[place[1]], self.split_prompt)
        return " ".join(text.split(" ")[:RELEASED_WORDS]) if self.truncate else text

    def _question_message(self, claims: Sequence[str]) -> str:
        return self.question_prompt.replace("<claims>", "\n".join(f"- {claim}" for claim in claims))

    def _joined(
        self, pair: tuple[Prompt, Response], claims: Sequence[str], questions: list[str] | NotDivided
    ) -> list[Claim] | NotDivided:
        prompt, response = pair
        if isinstance(questions, NotDivided):
            return questions
        claims = claims[: self.max_claims]
        if len(questions) != len(claims):
            return NotDivided(f"there are {len(claims)} claims, but {len(questions)} questions")
        known = content_words(f"{prompt.question} {response.text}")
        try:
            for k, texts in enumerate(zip(claims, questions, strict=True)):
                check_texts(k + 1, *texts)
                if not self.truncate:
                    check_meaning(k + 1, *texts, known)
        except UnusableReply as error:
            return NotDivided(str(error))
        return [
            Claim(f"{response.id}/{k}", response.id, prompt.id, *texts)
            for k, texts in enumerate(zip(claims, questions, strict=True))
        ]


def parse_bullets(reply: str, header: str) -> list[str]:
    """Parse the bullets of a reply, each in one line.

    Args:
        reply: an optional header, and lines that start with "-"; blank lines are ignored.
        header: the expected header.

    Raises:
        UnusableReply: there is another line, an empty bullet, or no bullet.

    >>> parse_bullets("- The cat is black.", "### Facts:")
    ['The cat is black.']
    """
    lines = [" ".join(line.split()) for line in reply.splitlines()]
    lines = [line for line in lines if line]
    bullets = lines[1:] if lines[:1] == [header] else lines
    if not lines or not all(re.match(r"- ?\S", line) for line in bullets):
        raise UnusableReply(f"it is no list of bullets under {header!r}")
    return [line[1:].strip() for line in bullets]


def _bullets(reply: str | NoReply, header: str) -> list[str] | NotDivided:
    if isinstance(reply, NoReply):
        return NotDivided(str(reply))
    try:
        return parse_bullets(reply, header)
    except UnusableReply as error:
        return NotDivided(str(error))


def _read(name: str, path: str | None, default: str, places: Sequence[str]) -> str:
    text = default if path is None else Path(path).expanduser().read_text(encoding="utf-8")
    missing = [place for place in places if text.count(place) != 1]
    if missing:
        raise ValueError(f"divider.{name}={path} must contain {missing[0]} once.")
    return text
