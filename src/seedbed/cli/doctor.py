"""``seedbed doctor``: what a server is, what it can, and which of its flags would make it better to sample from."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
import orjson

from seedbed.cli.options import as_json_option, connection_options, open_model, run_trio, to_try
from seedbed.errors import SeedbedError
from seedbed.llm import LLM, TopLogprobs, as_row
from seedbed.wording import counted

__all__ = ["doctor"]


@click.command()
@click.argument("url")
@connection_options
@as_json_option
def doctor(url: str, as_json: bool, **options: Any) -> None:
    """Examine the model server at URL: what it is, what it can, what to change.

    \b
    Example:
      seedbed doctor http://127.0.0.1:8080

    \b
    Exit codes: 0 it can be sampled from; 2 wrong usage; 3 it cannot, and why; 130 interrupted.
    """

    async def main() -> tuple[dict[str, Any], str]:
        async with open_model(url, options) as model:
            findings = await _examine(model)
            return findings, to_try(url, model, tokenizes=findings["tokenizer"].startswith("yes"))

    findings, command = run_trio(main)
    if as_json:
        click.echo(orjson.dumps(findings, option=orjson.OPT_INDENT_2))
        return
    for name, value in findings.items():
        if name != "advice":
            click.echo(f"{name:<15} {_words(value)}")
    for line in findings["advice"]:
        click.echo(f"to do           {line}")
    click.echo(f"next            {command}")


async def _examine(model: LLM) -> dict[str, Any]:
    info = model.info
    assert info is not None  # everything open_model() opens has one
    first, again = [as_row(await model.next_token_logits([info.eos_token_ids[0]])) for _ in range(2)]
    return {
        "server": info.server,
        "model": info.model,
        "fingerprint": info.fingerprint,
        "protocol": info.protocol,
        "vocabulary": info.vocab_size,
        "context": info.context_length,
        "stop tokens": list(info.eos_token_ids),
        "rows": _rows(first),
        "repeatable": _difference(first, again),
        "tokenizer": await _has_tokenizer(model),
        "advice": list(info.notes),
    }


def _rows(row: Any) -> str:
    if isinstance(row, TopLogprobs):
        return f"the {counted(len(row), 'most probable token')}, as log-probabilities"
    return "full rows"


def _difference(first: Any, again: Any) -> str:
    if isinstance(first, TopLogprobs):
        if first == again:
            return "yes, the same question twice gave the same bits"
        if not np.array_equal(first.token_ids, again.token_ids):
            return "no, the same question twice listed other tokens"
        first, again = first.logprobs, again.logprobs
    elif np.array_equal(first, again):
        return "yes, the same question twice gave the same bits"
    finite = np.isfinite(first) & np.isfinite(again)
    return f"no, the same question twice differed by up to {np.abs(first[finite] - again[finite]).max():.2g}"


async def _has_tokenizer(model: LLM) -> str:
    try:
        ids = await model.tokenize("The seed")
        text = await model.detokenize(ids)
    except SeedbedError as error:
        return f"no ({error})"
    return f"yes, 'The seed' is {ids}" if text.strip() == "The seed" else f"yes, but 'The seed' comes back as {text!r}"


def _words(value: Any) -> str:
    if value is None:
        return "unknown"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
