"""What a person sees while sequences grow: one line each on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import click
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seedbed.errors import SeedbedError
from seedbed.recording.spelling import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from seedbed.generation import Generation, SampledSequence
    from seedbed.llm import LLM

__all__ = ["counting", "printable", "shown_text", "watch"]

REFRESH = 0.2  # seconds
COLOURS = {"stop": "green", "length": "cyan", "deadline": "yellow", "error": "red", "cancelled": "yellow"}


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
async def watch(generation: Generation, model: LLM, *, quiet: bool) -> AsyncIterator[None]:
    """Show a generation growing on standard error while the block runs, if that is a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield
        return
    view = _View(generation, model, console)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.refresh_until_cancelled, live)
            yield
            nursery.cancel_scope.cancel()


class _View:
    def __init__(self, generation: Generation, model: LLM, console: Console) -> None:
        self._generation, self._model, self._console = generation, model, console
        self._texts: dict[tuple[int, int], tuple[int, str]] = {}  # {(prompt, index): (tokens shown, text)}
        self._began = trio.current_time()

    async def refresh_until_cancelled(self, live: Live) -> None:
        while True:
            await self._read_texts(self._visible())
            live.update(self._draw(), refresh=True)
            await trio.sleep(REFRESH)

    def _visible(self) -> Sequence[SampledSequence]:
        return self._generation.sequences[: max(1, self._console.height - 4)]

    async def _read_texts(self, sequences: Sequence[SampledSequence]) -> None:
        for sequence in sequences:
            key = (sequence.prompt_index, sequence.index)
            if self._texts.get(key, (0, ""))[0] != len(sequence.token_ids):
                self._texts[key] = (len(sequence.token_ids), await shown_text(self._model, sequence.token_ids))

    def _draw(self) -> Group:
        sequences = self._generation.sequences
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column(justify="right", style="dim")
        table.add_column(justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for sequence in self._visible():
            text = self._texts.get((sequence.prompt_index, sequence.index), (0, ""))[1]
            room = max(10, self._console.width - 16)
            colour = COLOURS[sequence.finish_reason] if sequence.finished is not None else "default"
            table.add_row(f"{sequence.prompt_index}.{sequence.index}", str(len(sequence.token_ids)), Text(text[-room:], style=colour))
        tokens = sum(len(sequence.token_ids) for sequence in sequences)
        done = sum(sequence.finished is not None for sequence in sequences)
        seconds = max(1e-9, trio.current_time() - self._began)
        return Group(
            table,
            Text(
                f"{done} of {counted(len(sequences), 'sequence')} done, {counted(tokens, 'token')}, {tokens / seconds:.0f} a second",
                style="bold",
            ),
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
