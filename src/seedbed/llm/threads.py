"""How a model that is not an ``LLM`` becomes one: blocking calls go to worker threads, look-alikes are wrapped."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import trio

from seedbed.errors import UsageError
from seedbed.llm.arguments import check_end_token_ids, shown, whole_number
from seedbed.llm.base import LLM, BlockingLLM, ModelInfo, TopLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike

    from seedbed.sampling.drawing import Drawing

__all__ = ["as_llm"]

# trio's own default limiter has 40 tokens shared by the whole program; a model gets its own, as many as HTTP connections.
DEFAULT_THREADS = 64


def as_llm(model: object, *, limiter: trio.CapacityLimiter | None = None) -> LLM:
    """``model`` as an ``LLM``: itself, in worker threads when its method blocks, or wrapped when it only looks like one.

    Args:
        model: an ``LLM``, a ``BlockingLLM``, or any object with ``next_token_logits`` and ``get_stop_token_id``.
        limiter: how many blocking calls may run at once; the default is a limiter of 64, made for this model alone.

    Raises:
        UsageError: the object lacks one of the two methods, or is a class; the message says what to pass instead. Or the limiter is none.

    Concurrency:
        A blocking call that is cancelled is abandoned: the task goes on at once, the thread runs to its end and keeps its
        limiter token until then, and what it returns or raises is dropped.

    Example:
        >>> class Blocking(BlockingLLM):
        ...     def next_token_logits(self, prev_token_ids):
        ...         return [0.0, 1.0]
        ...     def get_stop_token_id(self):
        ...         return 1
        >>> trio.run(as_llm(Blocking()).next_token_logits, [0])
        [0.0, 1.0]
    """
    if limiter is not None and not isinstance(limiter, trio.CapacityLimiter):
        raise UsageError(f"limiter must be a trio.CapacityLimiter, not {shown(limiter)}")
    if isinstance(model, LLM):
        return model
    if isinstance(model, type):
        raise UsageError(f"{model.__name__} is a class: pass one of its objects, as in {model.__name__}()")
    for name in ("next_token_logits", "get_stop_token_id"):
        if not callable(getattr(model, name, None)):
            hint = "; a server becomes one by connect(url)" if isinstance(model, str) else ""
            raise UsageError(f"{shown(model)} is no language model: it has no method {name}(){hint}")
    return _Adapted(model, limiter)


class _Adapted(LLM):
    """An object of the right shape behind the interface; what it has of the optional rest is passed on, the rest has its defaults."""

    def __init__(self, model: Any, limiter: trio.CapacityLimiter | None) -> None:
        self._model = model
        self._limiter = limiter or trio.CapacityLimiter(DEFAULT_THREADS)
        self.top_k = whole_number(getattr(model, "top_k", None))

    async def next_token_logits(self, prev_token_ids: Sequence[int]) -> ArrayLike | TopLogprobs:
        return await self._call(self._model.next_token_logits, prev_token_ids)  # type: ignore[no-any-return]

    async def logits_ahead(self, prev_token_ids: Sequence[int], count: int) -> tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]]:
        if not hasattr(self._model, "logits_ahead"):
            return await super().logits_ahead(prev_token_ids, count)
        return await self._call(self._model.logits_ahead, prev_token_ids, count)  # type: ignore[no-any-return]

    async def logits_along(
        self, prev_token_ids: Sequence[int], count: int, drawing: Drawing
    ) -> tuple[Sequence[int], Sequence[ArrayLike | TopLogprobs]]:
        if not hasattr(self._model, "logits_along"):
            return await super().logits_along(prev_token_ids, count, drawing)
        return await self._call(self._model.logits_along, prev_token_ids, count, drawing)  # type: ignore[no-any-return]

    async def _call(self, method: Callable[..., Any], *args: object) -> Any:
        if not isinstance(self._model, BlockingLLM) and inspect.iscoroutinefunction(inspect.unwrap(method)):
            return await method(*args)

        def boxed() -> tuple[Any]:
            """In a tuple, since trio refuses a thread's answer that is a coroutine, and a plain function may return one."""
            return (method(*args),)

        (answer,) = await trio.to_thread.run_sync(boxed, limiter=self._limiter, abandon_on_cancel=True)
        return await answer if inspect.isawaitable(answer) else answer

    def get_stop_token_id(self) -> int:
        (token_id,) = check_end_token_ids((self._model.get_stop_token_id(),))
        return token_id

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        if not hasattr(self._model, "eos_token_ids"):
            return super().eos_token_ids
        return check_end_token_ids(self._model.eos_token_ids)

    @property
    def info(self) -> ModelInfo | None:
        info = getattr(self._model, "info", None)
        return info if isinstance(info, ModelInfo) else None

    async def tokenize(self, text: str) -> list[int]:
        if not hasattr(self._model, "tokenize"):
            return await super().tokenize(text)
        return await self._call(self._model.tokenize, text)  # type: ignore[no-any-return]

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        if not hasattr(self._model, "detokenize"):
            return await super().detokenize(token_ids)
        return await self._call(self._model.detokenize, token_ids)  # type: ignore[no-any-return]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes(self._model.token_bytes(token_id)) if hasattr(self._model, "token_bytes") else super().token_bytes(token_id)

    def counters(self) -> dict[str, int]:
        return dict(self._model.counters()) if hasattr(self._model, "counters") else {}

    def __repr__(self) -> str:
        return f"as_llm({self._model!r})"
