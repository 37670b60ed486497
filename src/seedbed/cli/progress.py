"""What a person sees while a command is under way: on a terminal how far it is, nothing in a pipe."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import click
import trio

from seedbed.errors import SeedbedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from seedbed.llm import LLM

__all__ = ["counting", "printable", "shown_text", "watch"]

REFRESH = 0.2  # seconds


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
    if quiet or not sys.stderr.isatty():
        yield
        return
    from seedbed.cli.growing import shown_growing  # and rich with it, which a pipe need not wait for

    async with shown_growing(model, REFRESH):
        yield


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
