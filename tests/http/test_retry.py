"""Patience as arithmetic: when an attempt is made is a number on trio's clock, and these tests compare numbers."""

from __future__ import annotations

import math

import pytest
import trio

from seedbed.errors import (
    AnswerTooLarge,
    BadRequest,
    BrokenAnswer,
    ConnectionLost,
    ContextOverflow,
    DishonestAnswer,
    EngineFailed,
    NonFiniteAtServer,
    NotReady,
    Overloaded,
    RequestTimeout,
    ServerError,
    ServerUnreachable,
    Unauthorized,
    UnknownModel,
    UsageError,
)
from seedbed.http import Retry
from seedbed.testing import cancel_at_each_step

LOST = ConnectionLost("lost", answer_begun=True)


class Attempts:
    """Fails by its script, then answers; remembers when it was asked."""

    def __init__(self, *script: Exception) -> None:
        self.script, self.at, self.retries = list(script), [], 0

    async def __call__(self) -> str:
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.script:
            raise self.script.pop(0)
        return "answer"

    def count(self) -> None:
        self.retries += 1

    async def call(self, retry: Retry, request: bytes = b"request", **options: object) -> str:
        return await retry.call(self, request, on_retry=self.count, **options)


async def test_an_answer_at_once_waits_for_nothing(autojump_clock) -> None:
    attempts = Attempts()

    assert await attempts.call(Retry()) == "answer"
    assert (attempts.at, attempts.retries) == ([0], 0)


async def test_waits_double_up_to_the_cap_each_times_its_own_jitter(autojump_clock) -> None:
    attempts = Attempts(LOST, LOST, LOST, LOST)
    retry = Retry(base=1.0, cap=3.0)
    waits = [retry.delay(b"request", k) for k in range(4)]
    await attempts.call(retry)

    assert attempts.at == [0, waits[0], sum(waits[:2]), sum(waits[:3]), sum(waits[:4])]
    assert attempts.retries == 4
    for wait, most in zip(waits, [1.0, 2.0, 3.0, 3.0], strict=True):
        assert most / 2 <= wait < most


def test_jitter_is_a_function_of_the_request_and_the_attempt() -> None:
    retry = Retry(base=1.0, cap=1.0)
    waits = {retry.delay(b"%d" % request, attempt) for request in range(100) for attempt in range(5)}

    assert retry.delay(b"request", 0) == retry.delay(b"request", 0) == 0.556614083731773
    assert len(waits) == 500
    assert max(waits) - min(waits) > 0.49


@pytest.mark.parametrize("attempt", [1023, 1024, 100_000])
def test_a_hopeless_number_of_attempts_still_waits_the_cap(attempt: int) -> None:
    assert 4 <= Retry().delay(b"", attempt) < 8


async def test_a_server_that_says_how_long_is_obeyed_when_that_is_longer(autojump_clock) -> None:
    attempts = Attempts(Overloaded("busy", status=429, retry_after=20.0), Overloaded("busy", status=429, retry_after=0.0))
    retry = Retry(base=1.0)
    await attempts.call(retry)

    assert attempts.at == [0, 20, 20 + retry.delay(b"request", 1)]


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        ConnectionLost("lost", answer_begun=False),
        ServerUnreachable("no"),
        RequestTimeout("slow"),
        Overloaded("busy", status=503),
        NotReady("loading", status=503),
        EngineFailed("broke", status=500),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_may_pass_is_tried_again(autojump_clock, error: ServerError) -> None:
    assert await Attempts(error).call(Retry()) == "answer"


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no", status=400),
        ContextOverflow("long", status=400),
        Unauthorized("key", status=401),
        UnknownModel("who", status=404),
        NonFiniteAtServer("nan", status=400),
        BrokenAnswer("what"),
        AnswerTooLarge("big"),
        DishonestAnswer("lie"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_will_not_pass_is_not_tried_again(autojump_clock, error: ServerError) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        await attempts.call(Retry())

    assert attempts.at == [0]
    assert caught.value is error
    assert not hasattr(error, "__notes__")


async def test_a_broken_engine_is_tried_once_more_whenever_it_breaks(autojump_clock) -> None:
    once = Attempts(Overloaded("busy", status=503), EngineFailed("1", status=500), Overloaded("busy", status=503))
    twice = Attempts(EngineFailed("1", status=500), LOST, EngineFailed("2", status=500))

    assert await once.call(Retry()) == "answer"
    with pytest.raises(EngineFailed, match="2") as caught:
        await twice.call(Retry())
    assert caught.value.__notes__ == ["after 3 attempts"]


async def test_the_last_error_comes_out_with_the_number_of_attempts(autojump_clock) -> None:
    errors = [ConnectionLost(str(k), answer_begun=True) for k in range(5)]
    attempts = Attempts(*errors)
    with pytest.raises(ConnectionLost) as caught:
        await attempts.call(Retry(attempts=3))

    assert caught.value is errors[2]
    assert caught.value.__notes__ == ["after 3 attempts"]
    assert (len(attempts.at), attempts.retries) == (3, 2)


async def test_one_attempt_never_repeats(autojump_clock) -> None:
    attempts = Attempts(ConnectionLost("lost", answer_begun=True))
    with pytest.raises(ConnectionLost) as caught:
        await attempts.call(Retry(attempts=1))

    assert not hasattr(caught.value, "__notes__")


async def test_errors_of_the_callers_own_pass_untouched(autojump_clock) -> None:
    """A mock's "no route matched" is an AssertionError, and nothing to be patient about."""
    attempts = Attempts(AssertionError("not mocked"))
    with pytest.raises(AssertionError):
        await attempts.call(Retry())

    assert attempts.at == [0]


async def test_waits_together_stay_within_the_budget(autojump_clock) -> None:
    retry = Retry(base=1.0, cap=1.0, attempts=100, budget=10.0)
    attempts = Attempts(*[ConnectionLost("lost", answer_begun=True) for _ in range(99)])
    with pytest.raises(ConnectionLost) as caught:
        await attempts.call(retry)
    made = len(attempts.at)
    waits = [retry.delay(b"request", k) for k in range(made)]

    assert attempts.at[-1] == pytest.approx(sum(waits[:-1]))
    assert sum(waits[:-1]) <= 10 < sum(waits)
    assert caught.value.__notes__[0].startswith(f"after {made} attempts; another would need a wait of")
    assert "beyond the budget of 10 s" in caught.value.__notes__[0]


async def test_a_server_that_asks_for_more_than_the_budget_is_given_up_at_once(autojump_clock) -> None:
    with pytest.raises(Overloaded) as caught:
        await Attempts(Overloaded("busy", status=429, retry_after=3600.0)).call(Retry())

    assert trio.current_time() == 0
    assert caught.value.__notes__ == ["after 1 attempt; another would need a wait of 3.6e+03 s, beyond the budget of 60 s"]


@pytest.mark.parametrize(("deadline", "is_tried"), [(4.999, False), (5.0, False), (5.001, True)])
async def test_an_attempt_that_could_only_begin_after_the_deadline_is_not_waited_for(
    autojump_clock, deadline: float, is_tried: bool
) -> None:
    """The caller learns the reason at once, instead of a bare deadline later."""
    attempts = Attempts(Overloaded("busy", status=503, retry_after=5.0))
    with trio.move_on_after(deadline) as scope:
        if is_tried:
            assert await attempts.call(Retry()) == "answer"
        else:
            with pytest.raises(Overloaded) as caught:
                await attempts.call(Retry())
            assert "beyond the caller's deadline" in caught.value.__notes__[0]
            assert trio.current_time() == 0

    assert not scope.cancelled_caught


async def test_the_rule_what_may_help_can_be_replaced(autojump_clock) -> None:
    attempts = Attempts(BrokenAnswer("what"))

    assert await attempts.call(Retry(), may_help=lambda error: isinstance(error, BrokenAnswer)) == "answer"


def test_cancelled_at_any_step_it_ends() -> None:
    async def main() -> None:
        await Attempts(LOST, LOST).call(Retry())

    assert cancel_at_each_step(main) > 4


async def test_a_repetition_that_was_cancelled_while_waiting_is_not_counted(autojump_clock) -> None:
    attempts = Attempts(LOST)
    with trio.CancelScope() as scope:
        scope.deadline = math.inf
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempts.call, Retry(base=8.0))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    assert attempts.retries == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"attempts": 0}, {"attempts": 1.5}, {"attempts": True}, {"attempts": "3"}, {"base": -1.0}, {"base": None}, {"base": True},
        {"cap": math.nan}, {"cap": "8"}, {"budget": -0.1}, {"budget": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_number_outside_its_range_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Retry(**arguments)
