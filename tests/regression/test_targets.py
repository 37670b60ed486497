"""What a check asks for again: every recorded prefix, in the sequence it belongs to."""

from __future__ import annotations

import itertools

from seedbed.recording import open_recording
from seedbed.regression.targets import targets_of


def test_every_prefix_belongs_to_one_sequence_and_sequences_stand_together(recordings):
    targets = targets_of(open_recording(recordings / "full"))
    order = [target.sequence for target in targets]

    assert sorted(order) == order
    assert len({target.prefix for target in targets}) == len(targets)
    for one, other in itertools.pairwise(targets):
        if one.sequence == other.sequence:
            assert other.prefix[:-1] == one.prefix
            assert one.next_token == other.prefix[-1]
