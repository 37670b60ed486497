"""The mean of a value over all continuations: each step's mean out of those below it, from the leaves up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbed.recording.exact.tree import Interval, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seedbed.recording.exact.tree import Tree

__all__ = ["mean_over"]


class _Group(NamedTuple):
    """Continuations that share bounds of their mean: their mass lies in [low, high]."""

    low: float
    high: float
    mean: Interval


class _Branch(NamedTuple):
    """Continuations through a step that is to be looked at: their mass lies in [low, high]."""

    low: float
    high: float
    place: int


def mean_over(
    tree: Tree,
    value: Callable[[tuple[int, ...]], float],
    unknown: Callable[[int], Interval],
    early: Callable[[tuple[int, ...]], float | None] | None = None,
) -> Interval:
    """Bounds of the mean of ``value``; ``unknown(length)`` bounds it for a sequence of at least that many tokens."""
    if tree.max_new_tokens == 0:
        return Interval(value(()), value(()))
    walk = _Walk(tree, value, unknown, early)
    decided = [list(walk.decided_after(node)) for node in walk.nodes]  # which grow meanwhile: shorter before longer
    means: dict[int, Interval] = {}
    for place in range(len(decided) - 1, -1, -1):
        below = [_Group(branch.low, branch.high, means.pop(branch.place)) for branch in walk.branches[place]]
        means[place] = _mean(decided[place] + below)
    return means[0]


class _Walk:
    """Nodes in the order they are looked at, and the branches of each that lead to others."""

    def __init__(
        self,
        tree: Tree,
        value: Callable[[tuple[int, ...]], float],
        unknown: Callable[[int], Interval],
        early: Callable[[tuple[int, ...]], float | None] | None,
    ) -> None:
        self._tree, self._value, self._unknown, self._early = tree, value, unknown, early
        self.nodes = [tree.root]
        self.branches: list[list[_Branch]] = []

    def decided_after(self, node: Node) -> Iterator[_Group]:
        """What follows a node and needs no further look; what does is appended to the nodes, and to its branches."""
        tree = self._tree
        branches: list[_Branch] = []
        self.branches.append(branches)
        choice, recorded, ending = tree.choice(node), tree.recorded_after(node), tree.ending_after(node)
        looked_at = np.ones(choice.ids.size, dtype=bool)
        if ending is not None and self._early is None:
            looked_at = np.isin(choice.ids, [*recorded, *ending])
        lost_low, lost_high = float(choice.low[~looked_at].sum()), choice.rest + float(choice.high[~looked_at].sum())
        for token_id, low, high in choice.of(looked_at):
            longer = (*node.token_ids, token_id)
            known = self._known(longer)
            if known is not None:
                yield _Group(low, high, Interval(known, known))
            elif token_id in recorded:
                branches.append(_Branch(low, high, len(self.nodes)))
                self.nodes.append(Node(recorded[token_id], longer))
            else:
                lost_low, lost_high = lost_low + low, lost_high + high
        yield _Group(lost_low, lost_high, self._unknown(len(node.token_ids) + 1))

    def _known(self, token_ids: tuple[int, ...]) -> float | None:
        if self._tree.is_finished(token_ids):
            return self._value(token_ids)
        return None if self._early is None else self._early(token_ids)


def _mean(groups: list[_Group]) -> Interval:
    """Bounds of the mean over groups whose masses lie within theirs and sum to 1."""
    certain = math.fsum(group.low for group in groups)
    left = max(0.0, 1.0 - certain)
    low = [group.low * group.mean.low for group in groups]
    high = [group.low * group.mean.high for group in groups]
    low += _spread(left, sorted((group.mean.low, group.high - group.low) for group in groups))
    high += _spread(left, sorted(((group.mean.high, group.high - group.low) for group in groups), reverse=True))
    return Interval(math.fsum(low), math.fsum(high))


def _spread(left: float, rooms: list[tuple[float, float]]) -> Iterator[float]:
    """Put the mass that is left where it counts first, as far as there is room."""
    for mean, room in rooms:
        taken = min(left, room)
        left -= taken
        yield taken * mean
        if left <= 0.0:
            return
