"""The most probable continuations, found best first: what is looked at next is what may still be the most probable."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.recording.exact.tree import Interval, Node

if TYPE_CHECKING:
    from seedbed.recording.exact.tree import Tree

__all__ = ["LikelySequence", "MostLikely", "likeliest"]


class LikelySequence(NamedTuple):
    """One continuation and its probability.

    Attributes:
        token_ids: the generated ids, the stop token last when one ended it.
        probability: of exactly this continuation.
    """

    token_ids: tuple[int, ...]
    probability: Interval


class MostLikely(NamedTuple):
    """The most probable continuations that are known.

    Attributes:
        sequences: most probable first.
        unlisted: no continuation besides these has a larger probability than this; when it is below that of the last one listed, the list
            is complete.
    """

    sequences: tuple[LikelySequence, ...]
    unlisted: float


class _Begun(NamedTuple):
    """A continuation in the queue. Compared by its largest possible probability, ties by the order of finding."""

    negative: float
    found: int
    mass: Interval
    token_ids: tuple[int, ...]
    node: Node | None  # to look further from; None when it is finished


def likeliest(tree: Tree, count: int) -> MostLikely:
    """See ``most_likely``."""
    certain = Interval(1.0, 1.0)
    queue = [_Begun(-1.0, 0, certain, (), tree.root if tree.max_new_tokens else None)]
    sequences: list[LikelySequence] = []
    unlisted, pushed = 0.0, 1
    while queue and len(sequences) < count:
        begun = heapq.heappop(queue)
        if begun.node is None:
            sequences.append(LikelySequence(begun.token_ids, begun.mass))
            continue
        lost, further = _further(tree, begun.node, begun.mass, count)
        unlisted = max(unlisted, lost)
        for mass, token_ids, node in further:
            heapq.heappush(queue, _Begun(-mass.high, pushed, mass, token_ids, node))
            pushed += 1
    return MostLikely(tuple(sequences), max(unlisted, -queue[0].negative if queue else 0.0))


def _further(tree: Tree, node: Node, mass: Interval, count: int) -> tuple[float, list[tuple[Interval, tuple[int, ...], Node | None]]]:
    """One token more: the most that any continuation not followed can have; bounds, tokens and node of those that are."""
    choice, recorded, ending = tree.choice(node), tree.recorded_after(node), tree.ending_after(node)
    followed = np.ones(choice.ids.size, dtype=bool) if ending is None else np.isin(choice.ids, [*recorded, *ending])
    lost = max(choice.ceiling, float(choice.high[~followed].max(initial=0.0)))
    further: list[tuple[Interval, tuple[int, ...], Node | None]] = []
    for token_id, low, high in choice.of(followed, likeliest_first=True):
        longer = (*node.token_ids, token_id)
        if ending is None and len(further) == count:
            lost = max(lost, high)
            break  # what follows is less probable still, and of finished ones there are enough
        if tree.is_finished(longer):
            below = None
        elif token_id in recorded:
            below = Node(recorded[token_id], longer)
        else:
            lost = max(lost, high)
            continue
        further.append((Interval(mass.low * low, mass.high * high), longer, below))
    return mass.high * lost, further
