"""Which tokens of a pair differ: the weights of RLHF-V's dense DPO (arXiv 2312.00849, section 3.2)."""

from collections.abc import Sequence
from difflib import SequenceMatcher

MIN_SHARED_TOKENS = 3


def changed_token_weights(
    chosen_ids: Sequence[int], rejected_ids: Sequence[int], changed_weight: float
) -> tuple[list[float], list[float]]:
    """Weight `changed_weight` for tokens that one answer has in place of others of the other answer, 1 for the rest.

    Runs of at least `MIN_SHARED_TOKENS` equal tokens are shared passages; single common words are not. A passage that only
    one side has is an insertion, not a correction, and keeps weight 1, as in the released code.

    >>> changed_token_weights([1, 2, 3, 7], [1, 2, 3, 8, 9], 5.0)
    ([1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 1.0, 5.0, 5.0])
    >>> changed_token_weights([1, 2, 3], [1, 2, 3, 4], 5.0)
    ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    """
    chosen, rejected = [1.0] * len(chosen_ids), [1.0] * len(rejected_ids)
    blocks = SequenceMatcher(None, list(chosen_ids), list(rejected_ids), autojunk=False).get_matching_blocks()
    shared = [block for block in blocks if block.size >= MIN_SHARED_TOKENS or block.size == 0]
    a = b = 0
    for block in shared:  # the last one is the empty block at both ends
        if block.a > a and block.b > b:
            chosen[a : block.a] = [changed_weight] * (block.a - a)
            rejected[b : block.b] = [changed_weight] * (block.b - b)
        a, b = block.a + block.size, block.b + block.size
    return chosen, rejected
