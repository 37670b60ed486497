"""What a person sees while a file of prompts is worked through: two lines on a terminal."""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from seedbed.observing import (
    BulkBegan,
    PromptFinished,
    RequestBegan,
    RequestEnded,
    RequestRepeated,
    SequenceBegan,
    SequenceEnded,
    TaskBegan,
    TaskEnded,
    TokensDrawn,
)
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from seedbed.observing import Event

__all__ = ["BulkView"]

RECENT = 10.0  # seconds over which the speed is told


class BulkView:
    """An observer that counts, and a picture of what it counted.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._lines = self._before = self._place = 0
        self._drawn = self._written = self._proposed = self._accepted = self._answers = 0
        self._following = self._requests = self._repeated = self._skipped = 0
        self._tasks = self._tasks_done = 0
        self._recent: deque[tuple[float, int]] = deque()  # (when, tokens by then)

    def notice(self, event: Event) -> None:
        """See ``Observer``."""
        match event:
            case TokensDrawn():
                self._answers += 1
                self._drawn += len(event.token_ids)
                self._proposed += event.rows - 1
                self._accepted += max(0, len(event.token_ids) - 1)
            case RequestBegan():
                self._requests += 1
            case RequestEnded():
                self._requests -= 1
            case RequestRepeated():
                self._repeated += 1
            case SequenceBegan():
                self._following += 1
            case SequenceEnded():
                self._following -= 1
            case TaskBegan():
                self._tasks += 1
            case TaskEnded():
                self._tasks_done += 1
            case PromptFinished():
                self._place = event.prompt_index + 1
                self._written += event.tokens
                self._skipped += bool(event.problem)
            case BulkBegan():
                self._began = self._clock()
                self._lines, self._before = event.prompts, event.finished
                self._place = event.finished

    @contextmanager
    def shown_on(self, console: Console) -> Iterator[None]:
        """Draw it on a terminal, several times a second, from a thread of its own."""
        with Live(console=console, get_renderable=self.draw, refresh_per_second=4, transient=True):
            yield

    def draw(self) -> RenderableType:
        """How it stands now."""
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, self._lines), completed=self._place, width=30)
        grid.add_row(f"{self._place:,} of {self._lines:,} prompts", bar, self.left())
        return Group(grid, Text(self.counts(), style="bold"))

    def left(self) -> str:
        """How long the rest takes, at the speed of this run."""
        done, seconds = self._place - self._before, self._clock() - self._began
        if not done or seconds <= 0:
            return ""
        left = round(seconds / done * (self._lines - self._place))
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def counts(self) -> str:
        """What happens, as one line."""
        told = [f"{self._tokens_a_second():,.0f} tokens/s", f"{self._under_way()} under way"]
        if self._proposed:
            told.append(f"{self._accepted / self._proposed:.0%} of lookahead accepted, {self._drawn / self._answers:.2g} tokens an answer")
        told += [
            f"{counted(count, noun)} {how}"
            for count, noun, how in ((self._repeated, "request", "repeated"), (self._skipped, "prompt", "skipped"))
            if count
        ]
        return ", ".join(told)

    def _under_way(self) -> str:
        if self._tasks:  # on a cluster: the workers know of sequences and requests, and nobody here does
            return f"{counted(self._tasks_done, 'task')} done, {self._tasks - self._tasks_done}"
        return f"{counted(self._following, 'sequence')} and {counted(self._requests, 'request')}"

    def _tokens_a_second(self) -> float:
        now, tokens = self._clock(), max(self._drawn, self._written)  # on a cluster only what is written is known here
        self._recent.append((now, tokens))
        while len(self._recent) > 2 and self._recent[1][0] <= now - RECENT:
            self._recent.popleft()
        since, before = self._recent[0]
        if now == since:
            since, before = self._began, 0
        return (tokens - before) / (now - since) if now > since else 0.0
