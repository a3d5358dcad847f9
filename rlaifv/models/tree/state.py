"""What is known about the rows of a `BranchDecoder`: whose tokens they hold, how far their branches are, what they said.

Shapes: P rows, K branches of a row, Q lanes (places of a row that branches run in, those that live to the left), R live
branches, S slots of a row, N new tokens at most, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

# Owners of slots that belong to no branch: to the prefix, to no token yet, to a lane without a branch.
SHARED, EMPTY, NOBODY = -1, -2, -3


@dataclass(slots=True)
class RowState:
    """Arrays of NumPy are what the host knows without asking; tensors live on the model's device.

    prompt: int64[P], index of the prompt in a row, -1 where the row is free
    used, age: int64[P], slots that are taken, and tokens that each branch of a row has emitted; of free rows, nothing
    closed: bool[P, K], branches known to have ended, and those that a prompt has no use for
    num_branches: int64[P], those that it has
    questions: int64[P, K], tokens that a branch reads before it answers; `question_lengths` is a copy on the device
    stops: int64[P, K], tokens of an answer that a stop string ended; 0 of others
    slots, length, next_position, ages: int64[P]: `used`; tokens of the prefix; the position id that follows it; `age`
    ended: bool[P, K]
    emitted, uniform: int64 and float64[P, K, N], tokens, and the random numbers that they are drawn with
    owner, order: int64[P, S], branch that a slot belongs to, and how many tokens are before its own in their sequence
    seen: bool[P, K, V], tokens of prompt and branch; V is 0 where nobody asks
    """

    prompt: NDArray[np.int64]
    used: NDArray[np.int64]
    age: NDArray[np.int64]
    closed: NDArray[np.bool_]
    num_branches: NDArray[np.int64]
    questions: NDArray[np.int64]
    stops: NDArray[np.int64]
    slots: Tensor
    length: Tensor
    next_position: Tensor
    ages: Tensor
    question_lengths: Tensor
    ended: Tensor
    emitted: Tensor
    uniform: Tensor
    owner: Tensor
    order: Tensor
    seen: Tensor

    @classmethod
    def empty(
        cls, num_rows: int, num_slots: int, num_branches: int, num_tokens: int, vocab_size: int, device: torch.device
    ) -> "RowState":
        """Free rows."""
        branches, tokens = (num_rows, num_branches), (num_rows, num_branches, num_tokens)
        per_row = torch.zeros(4, num_rows, dtype=torch.int64, device=device)
        return cls(
            prompt=np.full(num_rows, -1),
            used=np.zeros(num_rows, dtype=np.int64),
            age=np.zeros(num_rows, dtype=np.int64),
            closed=np.ones(branches, dtype=np.bool_),
            num_branches=np.zeros(num_rows, dtype=np.int64),
            questions=np.zeros(branches, dtype=np.int64),
            stops=np.zeros(branches, dtype=np.int64),
            slots=per_row[0],
            length=per_row[1],
            next_position=per_row[2],
            ages=per_row[3],
            question_lengths=torch.zeros(branches, dtype=torch.int64, device=device),
            ended=torch.ones(branches, dtype=torch.bool, device=device),
            emitted=torch.zeros(tokens, dtype=torch.int64, device=device),
            uniform=torch.zeros(tokens, dtype=torch.float64, device=device),
            owner=torch.full((num_rows, num_slots), EMPTY, device=device),
            order=torch.zeros(num_rows, num_slots, dtype=torch.int64, device=device),
            seen=torch.zeros(*branches, vocab_size, dtype=torch.bool, device=device),
        )

    @property
    def free(self) -> NDArray[np.int64]:
        """Rows that hold no prompt."""
        return np.flatnonzero(self.prompt < 0)

    @property
    def busy(self) -> NDArray[np.int64]:
        """Rows that hold one."""
        return np.flatnonzero(self.prompt >= 0)

    def begin(
        self,
        rows: NDArray[np.int64],
        prompts: NDArray[np.int64],
        prefix_lengths: NDArray[np.int64],
        next_position: Tensor,
        uniform: Tensor,
        ids: Tensor,
    ) -> None:
        """Put prefixes into rows: their `ids` int64[B, T], padded on the right, are what slots 0 to T hold."""
        device, longest = self.slots.device, ids.shape[1]
        self.prompt[rows], self.used[rows], self.age[rows] = prompts, prefix_lengths, 0
        self.closed[rows], self.stops[rows] = False, 0
        at, lengths = torch.from_numpy(rows).to(device), torch.from_numpy(prefix_lengths).to(device)
        order = torch.arange(longest, device=device)
        self.slots[at], self.length[at], self.ages[at] = lengths, lengths, 0
        self.next_position[at] = next_position
        self.uniform[at, :, : uniform.shape[2]] = uniform
        self.ended[at] = False
        self.owner[at] = EMPTY
        self.owner[at, :longest] = torch.where(order < lengths[:, None], SHARED, EMPTY)
        self.order[at, :longest] = order
        if self.seen.numel():
            self.seen[at] = torch.zeros_like(self.seen[at, 0]).scatter_(1, ids, True)[:, None]

    def read(self, rows: NDArray[np.int64], questions: Sequence[Sequence[Sequence[int]]]) -> None:
        """Let branches begin with the ids of questions; a row has as many branches as it has questions."""
        num_branches = self.closed.shape[1]
        lengths = np.array([[*map(len, some), *[0] * (num_branches - len(some))] for some in questions])
        ids = np.zeros((*lengths.shape, lengths.max()), dtype=np.int64)
        for k, some in enumerate(questions):
            for j, of_branch in enumerate(some):
                ids[k, j, : len(of_branch)] = of_branch
        self.num_branches[rows] = [len(some) for some in questions]
        self.questions[rows] = lengths
        self.closed[rows] = np.arange(num_branches) >= self.num_branches[rows, None]
        at, *tensors = (
            torch.from_numpy(array).to(self.slots.device) for array in (rows, ids, lengths, self.closed[rows])
        )
        self.emitted[at, :, : ids.shape[2]], self.question_lengths[at], self.ended[at] = tensors

    def release(self, rows: NDArray[np.int64]) -> None:
        """Set rows free."""
        self.prompt[rows], self.used[rows], self.closed[rows] = -1, 0, True
        at = torch.from_numpy(rows).to(self.slots.device)
        self.slots[at] = 0
        self.ended[at] = True

    def keep_rows(self, rows: NDArray[np.int64]) -> None:
        """Drop all rows but these."""
        at = torch.from_numpy(rows).to(self.slots.device)
        for field in fields(self):
            values = getattr(self, field.name)
            setattr(self, field.name, values[at] if isinstance(values, Tensor) else values[rows])

    def widen(self, num_slots: int) -> None:
        """Have so many slots a row."""
        more = num_slots - self.owner.shape[1]
        if more > 0:
            self.owner, self.order = pad(self.owner, (0, more), value=EMPTY), pad(self.order, (0, more))


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where live branches run: branch k of a row in the lane that as many live ones are left of.

    num_live: int64[P], live branches of each row, which is the slots that a step takes; `num_slots` is a copy on the device
    rows, branches, places: int64[R], of each live branch; the last is its flat index into P * Q
    owner: int64[P, Q], the branch in each lane
    offsets: int64[Q], 0, 1, …
    """

    num_live: NDArray[np.int64]
    rows: Tensor
    branches: Tensor
    places: Tensor
    owner: Tensor
    num_slots: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, closed: NDArray[np.bool_], device: torch.device) -> "Lanes":
        """Return lanes for all branches that are not closed, which is bool[P, K]."""
        rows, branches = np.nonzero(~closed)
        lane = (np.cumsum(~closed, 1) - 1)[rows, branches]
        num_live = (~closed).sum(1)
        width = int(num_live.max())
        owner = np.full((len(closed), width), NOBODY)
        owner[rows, lane] = branches
        arrays = (rows, branches, rows * width + lane, owner, num_live, np.arange(width))
        tensors = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(num_live, *tensors)
