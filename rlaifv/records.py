"""The nouns of the field: what the stages of an iteration take and return.

All are frozen, hold plain values only (so that a shard of them is a parquet table), and are tied together by ids:
a prompt's id names its responses ("p7/3" is the fourth response to "p7"), and those name their claims ("p7/3/0").
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["accepted", "rejected", "unknown"]
# Question, image paths, system message and history of a prompt.
Asks = tuple[str, tuple[str, ...], str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Image(s) and a question. `image_paths` are absolute; `id` is unique in its data set.

    A prompt that data of others come with may have no image, and may be the last turn of a conversation: `history` are the
    texts before it, the user's and the assistant's in alternation, the user's first; `system` is the system message. Images
    stand before the first user turn.

    `facts` are texts that are true of the images, such as captions. Reward models may read them; policies and labelers never
    do. `answer` is the right answer to a question that has one, such as a letter; only rewards compare with it.
    `demonstration` is what a person answered; only supervised fine-tuning learns from it.
    """

    id: str
    question: str
    image_paths: tuple[str, ...]
    system: str = ""
    history: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    answer: str = ""
    demonstration: str = ""

    @property
    def asks(self) -> Asks:
        """All that is put to a model: prompts that are equal in this are one prompt, whatever their ids."""
        return self.question, self.image_paths, self.system, self.history


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer. `token_ids` is what the policy emitted, its end token included if `finished`."""

    id: str
    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    finished: bool
    seed: int


@dataclass(frozen=True, slots=True)
class Claim:
    """An atomic statement of a response and its yes/no form, as it is put to the labeler.

    Where answers are labelled by segment, `kind` says what the claim is about (existence, attribute, relation), `fact` names
    the fact that it is one wording of, and `end` is the place of its segment's last token; else they are empty and -1.
    """

    id: str
    response_id: str
    prompt_id: str
    text: str
    question: str
    kind: str = ""
    fact: str = ""
    end: int = -1


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the labeler made of a claim.

    `p_yes` and `p_no` are full-vocabulary probabilities summed over {yes, Yes} and {no, No}; `verdict` is `unknown` where
    both are negligible or not finite.
    """

    claim_id: str
    response_id: str
    prompt_id: str
    p_yes: float
    p_no: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference. Scores are minus the number of rejected claims (RLAIF-V, section 3.2), so `chosen_score` is the higher.

    `*_reference_logps` are the reference's log-probs of `*_token_ids`, one per token; empty until they are computed.
    `prompt_tokens` is the length of the encoded prompt, its images included; 0 until it is known.
    """

    id: str
    prompt_id: str
    chosen_response_id: str
    rejected_response_id: str
    chosen: str
    rejected: str
    chosen_token_ids: tuple[int, ...]
    rejected_token_ids: tuple[int, ...]
    chosen_score: float
    rejected_score: float
    chosen_reference_logps: tuple[float, ...] = ()
    rejected_reference_logps: tuple[float, ...] = ()
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of both answers."""
        return len(self.chosen_token_ids) + len(self.rejected_token_ids)


@dataclass(frozen=True, slots=True)
class Target:
    """An answer to learn by supervised fine-tuning. `source` says whose it is: person or policy.

    `token_ids` end with the end token. `prompt_tokens` is as in `Pair`.
    """

    id: str
    prompt_id: str
    token_ids: tuple[int, ...]
    source: str
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Route:
    """What kind of prompt a prompt is: fact, if a good answer needs facts of the image, other, or unknown."""

    prompt_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to a prompt, compared by one or more criteria, for reward models.

    `preferences` holds for each criterion the probability that the first answer is better; -1 where nothing is known.
    `margins` hold by how much the better one is better, in the units of whoever compared. `is_held_out` comparisons are not
    trained on. `prompt_tokens` is as in `Pair`.
    """

    id: str
    prompt_id: str
    first_token_ids: tuple[int, ...]
    second_token_ids: tuple[int, ...]
    preferences: tuple[float, ...]
    margins: tuple[float, ...]
    is_held_out: bool = False
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of both answers."""
        return len(self.first_token_ids) + len(self.second_token_ids)


@dataclass(frozen=True, slots=True)
class LabelledSegments:
    """An answer with a class for each of its segments and each kind of claim, for reward models. `id` is its response's.

    `ends` are the places of the segments' last tokens, ascending. `labels` hold the classes of the first segment, one for each
    kind, then those of the second: 0 nothing of this kind is claimed, 1 all of it is accepted, 2 some of it is rejected.
    `is_held_out` and `prompt_tokens` are as in `Comparison`.
    """

    id: str
    prompt_id: str
    token_ids: tuple[int, ...]
    ends: tuple[int, ...]
    labels: tuple[int, ...]
    is_held_out: bool = False
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """What a reward model, by its name, makes of a response.

    `names` are the scores', `values` hold the scores of the whole answer or, where a model scores segments, one value for each
    name and segment, those of the first segment first. `ends` are the last tokens of the segments, or of the answer.
    """

    response_id: str
    prompt_id: str
    model: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled answer with its reward, for policy gradients. `id` is its response's.

    `num_accepted` and `num_rejected` count its distinct claims by verdict. `advantage` says how much better it is than the
    other answers to its prompt. `logps` are the log-probs of `token_ids` under the policy that sampled them, one per token;
    empty until they are computed. `prompt_tokens` is as in `Pair`.

    With a critic, per token: `rewards`, `reference_logps` and `values` (what the critic expects of the rest of the answer
    before each token), and what was made of them: `advantages` and `returns`. `terms` are the weighted parts of the reward,
    named by `term_names`.
    """

    id: str
    prompt_id: str
    token_ids: tuple[int, ...]
    finished: bool
    num_accepted: int
    num_rejected: int
    reward: float
    advantage: float
    logps: tuple[float, ...] = ()
    prompt_tokens: int = 0
    term_names: tuple[str, ...] = ()
    terms: tuple[float, ...] = ()
    rewards: tuple[float, ...] = ()
    reference_logps: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()
    returns: tuple[float, ...] = ()

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """A sampled answer that is good or bad by itself, for learners that need no pairs. `id` is its response's.

    `mismatched_token_ids` is an answer to another prompt, the same one for all answers to a prompt; empty where there is no
    other prompt. `*_reference_logps` are the reference's log-probs after this prompt, one per token; empty until they are
    computed. `weight` multiplies the answer's loss. `prompt_tokens` is the length of the encoded prompt, its images included,
    and of the mismatched answer, as a prompt's answers share both; 0 until it is known.
    """

    id: str
    prompt_id: str
    token_ids: tuple[int, ...]
    is_desirable: bool
    weight: float
    num_accepted: int
    num_rejected: int
    mismatched_token_ids: tuple[int, ...] = ()
    reference_logps: tuple[float, ...] = ()
    mismatched_reference_logps: tuple[float, ...] = ()
    prompt_tokens: int = 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids)


Record = (
    Prompt
    | Route
    | Response
    | Claim
    | Judgement
    | AnswerScore
    | Target
    | Pair
    | Comparison
    | LabelledSegments
    | LabelledAnswer
    | Rollout
)

# Stored tables by name, in the order in which methods make them.
STAGE_RECORDS: dict[str, type[Record]] = {
    "prompts": Prompt,
    "routes": Route,
    "responses": Response,
    "claims": Claim,
    "judgements": Judgement,
    "scores": AnswerScore,
    "targets": Target,
    "pairs": Pair,
    "comparisons": Comparison,
    "segments": LabelledSegments,
    "labelled_answers": LabelledAnswer,
    "valued": Rollout,
    "rollouts": Rollout,
}
