from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaifv.engines.chat import Conversation, LocalChat, NoReply
from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.chat import UnusableReply
from rlaifv.stages.dividers.llama3_split import FACTS, SENTENCES, Llama3SplitDivider, parse_bullets
from rlaifv.stages.dividers.protocol import NotDivided

ANSWER = "A black cat lies on a bed, and there is no dog."
SPLIT = "### Facts:\n- A black cat lies on a bed.\n- There is no dog."
ASKED = "### Modified sentences:\n- Does a black cat lie on a bed?\n- Is there no dog?\n"


def respond(text: str = ANSWER, k: int = 0) -> tuple[Prompt, Response]:
    return Prompt("p7", "What is there?", ()), Response(f"p7/{k}", "p7", text, (1,), True, 0)


@pytest.mark.parametrize(
    ("reply", "bullets"),
    [
        (SPLIT, ["A black cat lies on a bed.", "There is no dog."]),
        ("### Facts:", []),
        ("- A cat.\n- A dog.", ["A cat.", "A dog."]),
        ("\n### Facts:\r\n\n-A cat. \n\n- A  dog-like thing.", ["A cat.", "A dog-like thing."]),
    ],
)
def test_bullets(reply: str, bullets: list[str]) -> None:
    assert parse_bullets(reply, FACTS) == bullets


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n",
        "A cat lies on a bed.",
        "### Facts:\n- A cat.\nA dog.",
        "### Facts:\n-",
        "### Facts:\n1. A cat.",
        ASKED,
    ],
)
def test_what_is_no_list_is_refused(reply: str) -> None:
    with pytest.raises(UnusableReply, match="no list of bullets under '### Facts:'"):
        parse_bullets(reply, FACTS)


class Scripted:
    def __init__(self, *replies: str | NoReply) -> None:
        self.replies, self.asked = list(replies), []  # type: ignore[var-annotated]

    def reply_all(self, conversations: Sequence[Conversation]) -> list[str | NoReply]:
        self.asked += [said for (said,) in conversations]
        return [self.replies.pop(0) for _ in conversations]


def scripted(splits: Sequence[str | NoReply], asks: Sequence[str | NoReply], **settings: Any) -> Llama3SplitDivider:
    divider = Llama3SplitDivider(split_path="a/split", question_path="a/question", **settings)
    divider.splitter, divider.asker = Scripted(*splits), Scripted(*asks)
    return divider


def test_facts_and_questions_become_claims() -> None:
    divider = scripted([SPLIT, "### Facts:"], [ASKED])
    first, empty, nothing = divider.divide_all([respond(), respond("", 1), respond("Lovely!", 2)])
    assert first == [
        Claim("p7/0/0", "p7/0", "p7", "A black cat lies on a bed.", "Does a black cat lie on a bed?"),
        Claim("p7/0/1", "p7/0", "p7", "There is no dog.", "Is there no dog?"),
    ]
    assert empty == nothing == []
    split, asked = divider.splitter.asked, divider.asker.asked  # type: ignore[attr-defined]
    assert len(split) == 2
    assert split[0].endswith(f"Question: What is there?\nAnswer: {ANSWER}")
    assert FACTS in split[0]
    assert asked[0].endswith("- A black cat lies on a bed.\n- There is no dog.")
    assert SENTENCES in asked[0]


@pytest.mark.parametrize(
    ("split", "asked", "reason"),
    [
        ("A cat, a bed.", ASKED, "no list of bullets under '### Facts:'"),
        (SPLIT, "Is it?", "no list of bullets under '### Modified sentences:'"),
        (SPLIT, ASKED.replace("- Is there no dog?\n", ""), "there are 2 claims, but 1 questions"),
        (SPLIT, ASKED + "- Is it so?", "there are 2 claims, but 3 questions"),
        (SPLIT, ASKED.replace("no dog?", "no dog."), "must end with a question mark"),
        (SPLIT, ASKED.replace("no dog", "a dog"), "one is denied and the other is not"),
        # The order is changed: by position alone, each claim would get the other's question.
        (SPLIT, "- Is there no dog?\n- Does a black cat lie on a bed?", "asks something else"),
        ("- There is a zebra.", "- Is there a zebra?", "not in the answer's own words"),
        (NoReply("too long"), ASKED, "too long"),
        (SPLIT, NoReply("too long"), "too long"),
    ],
)
def test_what_cannot_be_trusted_counts_as_not_divided(split: Any, asked: Any, reason: str) -> None:
    """The answer beside it keeps its claims."""
    questions = [ASKED] if isinstance(split, NoReply) or "cat, a bed" in split else [asked, ASKED]
    failed, fine = scripted([split, SPLIT], questions).divide_all([respond(), respond(k=1)])
    assert isinstance(failed, NotDivided)
    assert reason in failed.reason
    assert isinstance(fine, list)
    assert len(fine) == 2


def test_truncation_as_released() -> None:
    """A prompt of 300 words, of which the end of a long answer is no part; and claims about anything."""
    long = " ".join(f"word{k}" for k in range(500))
    cut = scripted(["- There is a zebra."], ["- Is there a zebra?"], truncate=True)
    (claims,) = cut.divide_all([respond(long)])
    (message,) = cut.splitter.asked  # type: ignore[attr-defined]
    assert len(message.split(" ")) == 300
    assert "word0 " in message
    assert "word499" not in message
    assert [claim.text for claim in claims] == ["There is a zebra."]  # type: ignore[union-attr]
    whole = scripted(["- There is a zebra."], ["- Is there a zebra?"])
    assert isinstance(whole.divide_all([respond(long)])[0], NotDivided)
    assert "word499" in whole.splitter.asked[0]  # type: ignore[attr-defined]


def test_replies_are_cut_as_released_or_must_end() -> None:
    for truncate, num_tokens in ((True, 256), (False, 99)):
        divider = Llama3SplitDivider(split_path="a/b", question_path="a/c", truncate=truncate, max_new_tokens=99)
        for chat in (divider.splitter, divider.asker):
            assert isinstance(chat, LocalChat)
            assert (chat.max_new_tokens, chat.keeps_cut) == (num_tokens, truncate)


def test_claims_beyond_the_cap_are_not_asked_about() -> None:
    divider = scripted([SPLIT], ["- Does a black cat lie on a bed?"], max_claims=1)
    (claims,) = divider.divide_all([respond()])
    assert len(claims) == 1  # type: ignore[arg-type]
    assert "dog" not in divider.asker.asked[0]  # type: ignore[attr-defined]


def test_an_answer_cannot_name_the_places_of_the_prompt() -> None:
    divider = scripted([SPLIT], [ASKED])
    divider.divide_all([respond("<question> {0} \\1 <answer>")])
    assert divider.splitter.asked[0].endswith("Answer: <question> {0} \\1 <answer>")  # type: ignore[attr-defined]


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    """The two models may be given the very words that they were tuned on."""
    (tmp_path / "split.txt").write_text("Facts of <question> / <answer>")
    (tmp_path / "ask.txt").write_text("Questions of\n<claims>")
    divider = scripted(
        [SPLIT], [ASKED], split_prompt=str(tmp_path / "split.txt"), question_prompt=str(tmp_path / "ask.txt")
    )
    divider.divide_all([respond()])
    assert divider.splitter.asked == [f"Facts of What is there? / {ANSWER}"]  # type: ignore[attr-defined]
    assert divider.producer != scripted([], []).producer
    with pytest.raises(ValueError, match=r"divider\.split_prompt=.*ask\.txt must contain <question> once"):
        scripted([], [], split_prompt=str(tmp_path / "ask.txt"))


def test_settings_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        scripted([], [], max_claims=0)


@pytest.mark.parametrize("truncate", [False, True])
def test_garbage_of_real_models_counts_as_not_divided(chat_dir: Path, truncate: bool) -> None:
    divider = Llama3SplitDivider(
        split_path=str(chat_dir), question_path=str(chat_dir), dtype="float32", truncate=truncate, max_new_tokens=8
    )
    results = divider.divide_all([respond(), respond("A red circle.", 1)])
    assert all(isinstance(result, NotDivided) for result in results)
