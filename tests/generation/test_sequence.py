"""The sequence state machine: every transition, every ending, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.errors import NothingToDraw
from seedbed.generation.sequence import TRANSITIONS, FollowedSequence, IllegalEvent, StopRules
from seedbed.llm import Ahead, TopLogprobs
from seedbed.sampling import Address, Sampler
from seedbed.sampling.configuration import configuration_of
from seedbed.sampling.drawing import Drawing

FLAT = np.zeros(8, dtype=np.float32)


def only(token_id: int) -> np.ndarray:
    return np.where(np.arange(8) == token_id, np.float32(0), np.float32(-np.inf))


def followed(max_new_tokens: int = 10, stop: StopRules = StopRules(frozenset({0})), resume=None) -> FollowedSequence:
    return FollowedSequence(7, 0, 3, (1, 2), sampler=Sampler(), stop=stop, max_new_tokens=max_new_tokens, resume=resume)


def test_a_stop_token_ends_it_and_is_kept() -> None:
    sequence = followed()

    assert sequence.receive(only(5)) == 5
    assert (sequence.state, sequence.prefix()) == ("asking", [1, 2, 5])
    assert sequence.receive(only(0)) == 0
    assert (sequence.state, sequence.is_finished) == ("stop", True)
    result = sequence.result()
    assert (result.token_ids, result.stop_match, result.finish_reason) == ((5, 0), (0,), "stop")


def test_a_stop_sequence_ends_it_on_generated_tokens_only() -> None:
    """The prompt ends with 2, and (2, 5) is a stop sequence: the first 5 must not complete it."""
    sequence = followed(stop=StopRules(sequences=((2, 5),)))

    sequence.receive(only(5))
    assert not sequence.is_finished
    sequence.receive(only(2))
    sequence.receive(only(5))

    assert sequence.result().stop_match == (2, 5)


def test_the_longest_of_several_matching_stop_sequences_is_named() -> None:
    sequence = followed(stop=StopRules(sequences=((5,), (4, 5), (3, 5))))
    sequence.receive(only(4))
    sequence.receive(only(5))

    assert sequence.result().stop_match == (4, 5)


def test_a_stop_at_the_last_allowed_token_is_a_stop() -> None:
    sequence = followed(max_new_tokens=1)
    sequence.receive(only(0))

    assert sequence.result().finish_reason == "stop"


def test_the_token_that_fills_max_new_tokens_ends_it() -> None:
    sequence = followed(max_new_tokens=2)
    sequence.receive(only(5))
    sequence.receive(only(5))

    assert sequence.result().finish_reason == "length"


def test_no_room_for_tokens_ends_it_before_the_first_question() -> None:
    assert followed(max_new_tokens=0).result().finish_reason == "length"


def test_a_row_that_cannot_be_drawn_from_changes_nothing() -> None:
    sequence = followed()
    sequence.receive(only(5))
    with pytest.raises(NothingToDraw, match=r"\[prompt 0, sequence 3, step 1\]"):
        sequence.receive(np.full(8, -np.inf, dtype=np.float32))

    assert (sequence.state, sequence.step) == ("asking", 1)


@pytest.mark.parametrize(("act", "reason"), [("expire", "deadline"), ("cancel", "cancelled")])
def test_what_was_had_is_kept_when_it_is_cut_short(act: str, reason: str) -> None:
    sequence = followed()
    sequence.receive(only(5))
    getattr(sequence, act)()

    result = sequence.result()
    assert (result.finish_reason, result.token_ids) == (reason, (5,))


def test_a_failure_is_kept_as_text() -> None:
    sequence = followed()
    sequence.fail(OSError("gone"))

    assert (sequence.result().finish_reason, sequence.result().error) == ("error", "OSError: gone")


def test_answers_ahead_are_walked_as_long_as_the_draws_are_what_was_proposed() -> None:
    sequence = followed()
    sequence.receive_ahead(Ahead((3, 4, 5, 6), (only(3), only(4), only(7), only(6))))
    assert sequence.prefix() == [1, 2, 3, 4, 7]
    sequence.receive_ahead(Ahead((), (only(5),)))
    sequence.receive_ahead(Ahead((5, 5), (only(5), only(5))))

    assert (sequence.prefix(), sequence.room) == ([1, 2, 3, 4, 7, 5, 5, 5], 4)


@pytest.mark.parametrize(("stop", "max_new_tokens", "want"), [(StopRules(frozenset({4})), 9, (3, 4)), (StopRules(), 3, (3, 4, 4))])
def test_what_ends_it_ends_the_walk(stop: StopRules, max_new_tokens: int, want: tuple[int, ...]) -> None:
    sequence = followed(max_new_tokens, stop)
    sequence.receive_ahead(Ahead((3, 4, 4, 4), (only(3), only(4), only(4), only(4), only(4))))

    assert sequence.result().token_ids == want


def test_a_bad_row_ahead_keeps_the_tokens_before_it() -> None:
    sequence = followed()
    with pytest.raises(NothingToDraw, match=r"step 2\]"):
        sequence.receive_ahead(Ahead((3, 4), (only(3), only(4), only(9))))

    assert (sequence.state, sequence.result().token_ids) == ("asking", (3, 4))


@given(
    st.lists(st.integers(0, 3), max_size=12),
    st.frozensets(st.integers(0, 5), max_size=2),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
)
def test_the_first_match_is_where_it_would_have_ended(tokens: list[int], token_ids: frozenset[int], sequences: tuple) -> None:
    stop = StopRules(token_ids, sequences)
    ends = [length for length in range(1, len(tokens) + 1) if stop.match(tokens[:length])]

    assert stop.first_match(tokens) == (ends[0] if ends else None)


EVENTS = {
    "token": lambda sequence: sequence.receive(FLAT),
    "deadline": lambda sequence: sequence.expire(),
    "error": lambda sequence: sequence.fail(OSError()),
    "cancel": lambda sequence: sequence.cancel(),
}


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12))
def test_any_order_of_events_follows_the_table_or_raises_and_changes_nothing(events: list[str]) -> None:
    sequence = followed(max_new_tokens=4)
    for event in events:
        before = sequence.result()
        if TRANSITIONS[sequence.state]:
            EVENTS[event](sequence)
        else:
            with pytest.raises(IllegalEvent):
                EVENTS[event](sequence)
            assert sequence.result() == before
        assert sequence.is_finished == (sequence.state != "asking")
        assert len(sequence.result().margins) == sequence.step <= 4


@given(st.integers(0, 6), st.integers(1, 8))
def test_resumed_anywhere_it_goes_on_as_if_never_interrupted(cut: int, more: int) -> None:
    whole = followed(max_new_tokens=cut + more, stop=StopRules())
    for _ in range(cut + more):
        whole.receive(FLAT)
    begun = followed(max_new_tokens=cut, stop=StopRules())
    for _ in range(cut):
        begun.receive(FLAT)
    resumed = followed(max_new_tokens=cut + more, stop=StopRules(), resume=begun.result())
    for _ in range(more):
        resumed.receive(FLAT)

    assert resumed.result() == whole.result()


def test_a_sequence_that_had_stopped_is_not_gone_on_with() -> None:
    stopped = followed()
    stopped.receive(only(0))

    assert followed(resume=stopped.result()).result() == stopped.result()


def test_a_sequence_of_no_tokens_goes_on_as_what_it_is() -> None:
    """Finished if none are allowed now, else at its beginning."""
    empty = followed().result()

    assert followed(0, resume=empty).state == "length"
    assert followed(1, resume=empty).state == "asking"


@pytest.mark.parametrize(
    ("sampler", "row", "learns"),
    [
        (Sampler(temperature=0.7, presence_penalty=1.5, mirostat=2), np.log([0.05, 0.1, 0.1, 0.3, 0.05, 0.2, 0.1, 0.1]), True),
        (Sampler(), TopLogprobs([3, 5, 6, 1], np.log([0.3, 0.3, 0.2, 0.1]), 8), False),
    ],
    ids=["a chain that looks back and learns", "a row cut off"],
)
def test_it_keeps_of_each_draw_what_the_sampler_says(sampler: Sampler, row: object, learns: bool) -> None:
    """Drawn by hand beside it, address by address."""
    row = row if isinstance(row, TopLogprobs) else np.float32(row)
    sequence = FollowedSequence(7, 2, 3, (1, 2), sampler=sampler, stop=StopRules(), max_new_tokens=9)
    drawn: list[int] = []
    for step in range(4):
        drawing = sequence.drawing()
        draw = sampler.sample(row, Address(7, 2, 3, step), (1, 2), drawn, state=drawing.state)

        assert drawing == Drawing(sampler, Address(7, 2, 3, step), drawing.state)
        assert (drawing.state is None) == (step == 0 or not learns)
        assert sequence.receive(row) == draw.token_id
        drawn.append(draw.token_id)
        result = sequence.result()
        assert result.token_ids == tuple(drawn)
        last = (result.logprobs[-1], result.processed_logprobs[-1], result.margins[-1], result.tail_masses[-1])
        assert last == (draw.logprob, draw.processed_logprob, draw.margin, draw.tail_mass)
        assert result.resume.sampler_state == draw.state
    assert len(set(drawn)) > 1


def test_while_it_is_asking_its_value_reads_cancelled_and_nothing_else_is_made_up() -> None:
    sequence = followed()
    fresh = sequence.result()
    sequence.started, sequence.finished = 1.5, 2.5
    later = sequence.result()

    assert (fresh.finish_reason, fresh.stop_match, fresh.error, fresh.started, fresh.finished) == ("cancelled", None, None, None, None)
    assert (later.started, later.finished) == (1.5, 2.5)
    assert fresh.resume.sampler == configuration_of(Sampler())


def test_proposals_beyond_the_last_row_are_not_asked_for_their_rows() -> None:
    sequence = followed()
    sequence.receive_ahead(Ahead((5, 4, 3), (only(5), only(4))))

    assert (sequence.prefix(), sequence.token_ids) == ([1, 2, 5, 4], (5, 4))


def test_what_is_illegal_says_in_which_state() -> None:
    sequence = followed()
    sequence.cancel()
    with pytest.raises(IllegalEvent, match="state 'cancelled' takes no 'token'"):
        sequence.receive(FLAT)
