"""``seedbed doctor``: what a server is, what it can, and which of its flags would make it better to sample from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np

from seedbed.cli.commands import to_try
from seedbed.cli.options import as_json_option, connection_options, echo_json
from seedbed.cli.running import run_trio
from seedbed.cli.source import open_model
from seedbed.errors import SeedbedError
from seedbed.llm import LLM, TopLogprobs, as_row
from seedbed.wording import counted

if TYPE_CHECKING:
    from seedbed.llm.base import Row

__all__ = ["doctor"]

TEXT = "The seed"  # a tokenizer is tried on it


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a server.

    Attributes:
        rows: how many tokens of each row it lists.
        repeatable: whether the same question had the same bits twice.
        difference: how far the two answers were apart at most, in nats; None where they listed other tokens.
        tokenizer: None when it has none.
        no_tokenizer: why it has none.
        advice: what would make it better to sample from.
    """

    server: str | None
    model: str | None
    fingerprint: str | None
    protocol: str | None
    vocab_size: int | None
    context_length: int | None
    eos_token_ids: tuple[int, ...]
    rows: int | Literal["all"]
    repeatable: bool
    difference: float | None
    tokenizer: Tokenizer | None
    no_tokenizer: str | None
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What a server's tokenizer made of a text, and what it made of that."""

    text: str
    token_ids: list[int]
    detokenized: str


@click.command(short_help="Examine a server: what it is, what it can, what to change.")
@click.argument("url")
@connection_options()
@as_json_option
def doctor(url: str, as_json: bool, **options: Any) -> None:
    """Examine the model server at URL: what it is, what it can, what to change.

    \b
    Example:
      seedbed doctor http://127.0.0.1:8080

    \b
    Exit codes: 0 it can be sampled from; 2 wrong usage; 3 it cannot, and why; 130 interrupted.
    """

    async def main() -> tuple[Facts, str]:
        async with open_model(url, options) as model:
            facts = await _examine(model)
            return facts, to_try(url, model, tokenizes=facts.tokenizer is not None)

    facts, command = run_trio(main)
    if as_json:
        echo_json(asdict(facts))
        return
    for name, value in _in_words(facts).items():
        click.echo(f"{name:<15} {value}")
    for line in facts.advice:
        click.echo(f"to do           {line}")
    click.echo(f"next            {command}")


async def _examine(model: LLM) -> Facts:
    info = model.info
    assert info is not None  # everything open_model() opens has one
    first, again = [as_row(await model.next_token_logits([info.eos_token_ids[0]])) for _ in range(2)]
    tokenizer, no_tokenizer = await _tokenizer(model)
    return Facts(
        server=info.server,
        model=info.model,
        fingerprint=info.fingerprint,
        protocol=info.protocol,
        vocab_size=info.vocab_size,
        context_length=info.context_length,
        eos_token_ids=info.eos_token_ids,
        rows=len(first) if isinstance(first, TopLogprobs) else "all",
        repeatable=_are_same(first, again),
        difference=_difference(first, again),
        tokenizer=tokenizer,
        no_tokenizer=no_tokenizer,
        advice=tuple(info.notes),
    )


def _are_same(first: Row, again: Row) -> bool:
    if isinstance(first, TopLogprobs) or isinstance(again, TopLogprobs):
        return first == again
    return np.array_equal(first, again)


def _difference(first: Row, again: Row) -> float | None:
    """The largest between two answers, in nats; None where they cannot be compared token by token."""
    if isinstance(first, TopLogprobs) and isinstance(again, TopLogprobs):
        if not np.array_equal(first.token_ids, again.token_ids):
            return None
        first, again = first.logprobs, again.logprobs
    assert isinstance(first, np.ndarray)
    assert isinstance(again, np.ndarray)
    finite = np.isfinite(first) & np.isfinite(again)
    return float(np.abs(first[finite] - again[finite]).max(initial=0.0))


async def _tokenizer(model: LLM) -> tuple[Tokenizer | None, str | None]:
    try:
        token_ids = list(await model.tokenize(TEXT))
        return Tokenizer(TEXT, token_ids, await model.detokenize(token_ids)), None
    except SeedbedError as error:
        return None, str(error)


def _in_words(facts: Facts) -> dict[str, str]:
    told = {
        "server": facts.server,
        "model": facts.model,
        "fingerprint": facts.fingerprint,
        "protocol": facts.protocol,
        "vocabulary": facts.vocab_size,
        "context": facts.context_length,
        "stop tokens": ", ".join(map(str, facts.eos_token_ids)),
    }
    return {name: "unknown" if value is None else str(value) for name, value in told.items()} | {
        "rows": "full rows" if facts.rows == "all" else f"the {counted(facts.rows, 'most probable token')}, as log-probabilities",
        "repeatable": _repeatable_in_words(facts),
        "tokenizer": _tokenizer_in_words(facts),
    }


def _repeatable_in_words(facts: Facts) -> str:
    if facts.repeatable:
        return "yes, the same question twice gave the same bits"
    if facts.difference is None:
        return "no, the same question twice listed other tokens"
    return f"no, the same question twice differed by up to {facts.difference:.2g}"


def _tokenizer_in_words(facts: Facts) -> str:
    tokenizer = facts.tokenizer
    if tokenizer is None:
        return f"no ({facts.no_tokenizer})"
    if tokenizer.detokenized.strip() == tokenizer.text:
        return f"yes, {tokenizer.text!r} is {tokenizer.token_ids}"
    return f"yes, but {tokenizer.text!r} comes back as {tokenizer.detokenized!r}"
