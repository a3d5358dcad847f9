"""Token weights of RLHF-V's dense DPO (arXiv 2312.00849, section 3.2), based on which tokens of a pair differ."""

from collections.abc import Sequence
from difflib import SequenceMatcher

MIN_SHARED_TOKENS = 3


def changed_token_weights(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int], changed_weight: float
) -> tuple[list[float], list[float]]:
    """Assign weight `changed_weight` to tokens that replace other tokens of the other answer, and 1 to the rest.

    Runs of at least `MIN_SHARED_TOKENS` equal tokens count as shared; single common words do not. A passage that only
    one side has is an insertion, not a correction, and keeps weight 1, as in the released code. That code compares whole
    conversations, so the shared prompt precedes both answers, and equal first tokens of the answers extend that shared
    passage, however few they are.

    >>> changed_token_weights([1, 2, 3, 7], [1, 2, 3, 8, 9], 5.0)
    ([1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 5.0, 5.0])
    >>> changed_token_weights([1, 2, 3], [1, 2, 3, 4], 5.0)
    ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    >>> changed_token_weights([9, 7], [9, 8], 5.0)
    ([1.0, 5.0], [1.0, 5.0])
    """
    chosen, rejected = [1.0] * len(chosen_ids), [1.0] * len(rejected_ids)
    start = _num_equal_first(chosen_ids, rejected_ids)
    matcher = SequenceMatcher(None, list(chosen_ids[start:]), list(rejected_ids[start:]), autojunk=False)
    shared = [block for block in matcher.get_matching_blocks() if block.size >= MIN_SHARED_TOKENS or block.size == 0]
    a = b = start
    for block in shared:  # the last block is empty and marks both ends
        next_a, next_b = start + block.a, start + block.b
        if next_a > a and next_b > b:
            chosen[a:next_a] = [changed_weight] * (next_a - a)
            rejected[b:next_b] = [changed_weight] * (next_b - b)
        a, b = next_a + block.size, next_b + block.size
    return chosen, rejected


def _num_equal_first(one: Sequence[int], other: Sequence[int]) -> int:
    shorter = min(len(one), len(other))
    return next((k for k in range(shorter) if one[k] != other[k]), shorter)
