"""When a request is tried again, and how long to wait before: capped exponential, jittered without a random stream, on trio's clock."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from seedbed.errors import (
    ConnectionLost,
    EngineFailed,
    RequestRefused,
    RequestTimeout,
    ServerError,
    ServerUnreachable,
    UsageError,
)
from seedbed.sampling.randomness import Address, Purpose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Retry"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a request is repeated. Every request reads only, so repeating one is always safe.

    Tried again: 429 and 503, any other 5xx once, a lost connection, no connection, no answer in time. Not tried again: any other
    refusal, and answers that are broken or dishonest. The wait before attempt k + 1 is ``base * 2**k``, at most ``cap``, times a number in
    [0.5, 1) that is a hash of the request and k, or what the server asked for with Retry-After if that is longer.

    Args:
        attempts: how often a request is sent at most; 1 never repeats it.
        base: seconds before the second attempt.
        cap: the longest wait in seconds, unless the server asks for more.
        budget: seconds that all waits of one request may take together; an attempt that would need more is not made.

    Raises:
        UsageError: a number outside its range.

    Example:
        >>> Retry(base=1.0).delay(b"request", 0)
        0.556614083731773
    """

    attempts: int = 5
    base: float = 0.25
    cap: float = 8.0
    budget: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise UsageError(f"attempts must be an int, not {self.attempts!r}")
        for name in ("base", "cap", "budget"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise UsageError(f"{name} must be seconds, not {seconds!r:.80}")
        if self.attempts < 1 or not self.base >= 0 or not self.cap >= 0 or not self.budget >= 0:
            raise UsageError(f"retry needs attempts >= 1 and waits >= 0, not {self}")

    def delay(self, request: bytes, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt``, from 0: the same for the same request."""
        seed = int.from_bytes(hashlib.blake2b(request, digest_size=16).digest(), "little")
        jitter = Address(seed, step=attempt).uniform(Purpose.RETRY_JITTER)
        return min(self.cap, self.base * 2.0 ** min(attempt, 1000)) * (0.5 + jitter / 2)  # 2.0**1024 is no float

    async def call(
        self,
        send: Callable[[], Awaitable[T]],
        request: bytes,
        *,
        failed: ServerError | None = None,
        on_retry: Callable[[], object] = lambda: None,
        may_help: Callable[[ServerError], bool] | None = None,
    ) -> T:
        """``await send()``, again and again while it may help.

        Args:
            send: one attempt.
            request: what is sent, for the jitter.
            failed: why the first attempt failed, when it has been made; whoever makes it himself needs all this after a failure only.
            on_retry: called before each repetition.
            may_help: whether to try again after such an error; the default is the rule above.

        Raises:
            ServerError: the last attempt's error, with a note how many there were. Never sleeps past the caller's deadline: an attempt
                that could only begin after it is not waited for.

        Concurrency:
            As ``send``; cancelled while waiting: nothing happened.
        """
        waited, broken_engines = 0.0, 0
        for attempt in range(self.attempts):
            try:
                if failed is not None:
                    raise failed
                return await send()
            except ServerError as error:
                failed = None
                delay = max(self.delay(request, attempt), getattr(error, "retry_after", None) or 0.0)
                broken_engines += isinstance(error, EngineFailed)
                is_last = attempt + 1 == self.attempts or broken_engines > 1 or not (may_help or _may_help)(error)
                why_not = "" if is_last else self._why_not_wait(waited, delay)
                if why_not is not None:
                    if attempt or why_not:
                        error.add_note(f"after {attempt + 1} attempt{'s' if attempt else ''}{why_not}")
                    raise
            waited += delay
            await trio.sleep(delay)
            on_retry()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _why_not_wait(self, waited: float, delay: float) -> str | None:
        """None when there is time for another attempt."""
        if waited + delay > self.budget:
            return f"; another would need a wait of {delay:.3g} s, beyond the budget of {self.budget:g} s"
        # A deadline that has passed, or a cancellation, is for trio to deliver: the wait is its checkpoint.
        now = trio.current_time()
        if now < trio.current_effective_deadline() <= now + delay:
            return f"; another would need a wait of {delay:.3g} s, beyond the caller's deadline"
        return None


def _may_help(error: ServerError) -> bool:
    if isinstance(error, RequestRefused):
        return error.retryable
    return isinstance(error, (ConnectionLost, ServerUnreachable, RequestTimeout))
