"""What a person sees while sequences grow: one line each on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seedbed.errors import SeedbedError
from seedbed.observing import GenerationBegan, SequenceBegan, SequenceEnded, TokensDrawn, observe
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from seedbed.llm import LLM
    from seedbed.observing import Event

__all__ = ["counting", "printable", "shown_text", "watch"]

REFRESH = 0.2  # seconds
COLOURS = {"": "default", "stop": "green", "length": "cyan", "deadline": "yellow", "error": "red", "cancelled": "yellow"}


@contextmanager
def counting(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the text handed to what this yields as the one line on standard error, several times a second, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    width = shown = 0.0

    def show(text: str) -> None:
        nonlocal width, shown
        if trio.current_time() - shown < REFRESH:
            return
        width, shown = max(width, len(text)), trio.current_time()
        click.echo(f"\r{text:<{int(width)}}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r" + " " * int(width) + "\r", nl=False, err=True)


@asynccontextmanager
async def watch(model: LLM, *, quiet: bool) -> AsyncIterator[None]:
    """Show the sequences of a generation begun in the block growing on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    view = _View(model, console)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.refresh_until_cancelled, live)
            with observe(view):
                yield
            nursery.cancel_scope.cancel()
            live.update(view.draw(), refresh=True)  # one that was quicker than the view is seen, too


@dataclass(slots=True)
class _Line:
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    text: str = ""
    tokens_in_text: int = 0


class _View:
    """An observer: what the first sequences look like, and how far all of them are."""

    def __init__(self, model: LLM, console: Console) -> None:
        self._model, self._console = model, console
        self._lines: dict[tuple[int, int], _Line] = {}  # the first to begin, which are the first in order
        self._total = self._done = self._tokens = 0
        self._began = trio.current_time()

    def notice(self, event: Event) -> None:
        match event:
            case GenerationBegan():
                self._total = event.sequences
            case SequenceBegan():
                if len(self._lines) < max(1, self._console.height - 4):
                    self._lines[event.prompt_index, event.index] = _Line([*event.token_ids])
                self._tokens += len(event.token_ids)
            case TokensDrawn():
                self._tokens += len(event.token_ids)
                if (line := self._lines.get((event.prompt_index, event.index))) is not None:
                    line.token_ids += event.token_ids
            case SequenceEnded():
                self._done += event.finish_reason != "cancelled"
                if (line := self._lines.get((event.prompt_index, event.index))) is not None:
                    line.finish_reason = event.finish_reason

    async def refresh_until_cancelled(self, live: Live) -> None:
        while True:
            for line in list(self._lines.values()):
                if line.tokens_in_text != len(line.token_ids):
                    line.tokens_in_text, line.text = len(line.token_ids), await shown_text(self._model, line.token_ids[:])
            live.update(self.draw(), refresh=True)
            await trio.sleep(REFRESH)

    def draw(self) -> Group:
        """How it stands now."""
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(justify="right", style="dim")
        table.add_column(justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        room = max(10, self._console.width - 16)
        for (prompt_index, index), line in self._lines.items():
            text = Text(line.text[-room:], style=COLOURS[line.finish_reason])
            table.add_row(f"{prompt_index}.{index}", str(len(line.token_ids)), text)
        if not self._total:
            return Group(Text("nothing is asked for yet", style="dim"))
        seconds = max(1e-9, trio.current_time() - self._began)
        speed = f"{self._tokens / seconds:.0f} a second"
        return Group(
            table, Text(f"{self._done} of {counted(self._total, 'sequence')} done, {counted(self._tokens, 'token')}, {speed}", style="bold")
        )


async def shown_text(model: LLM, token_ids: Sequence[int]) -> str:
    """Token ids as one line of text, or as numbers where the model has no tokenizer."""
    try:
        return printable(await model.detokenize(list(token_ids)), token_ids)
    except SeedbedError:
        return printable(None, token_ids)


def printable(text: str | None, token_ids: Sequence[int]) -> str:
    """A model's text as one line that a terminal can be shown; the token ids as numbers where there is no text."""
    if text is None:
        return " ".join(map(str, token_ids))
    # A model may say anything, terminal commands included.
    return "".join(character if character.isprintable() else " " for character in text)
