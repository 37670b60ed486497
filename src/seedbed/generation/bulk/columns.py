"""What stands in the output: a row a sequence, in the columns below, as JSON lines or as parquet.

| column | type | what |
|---|---|---|
| ``prompt_index`` | int | the number of the prompt's line, from 0 |
| ``index`` | int | which of the prompt's sequences |
| ``id`` | text or null | the line's own "id" |
| ``prompt_token_ids`` | ints | the prompt |
| ``token_ids`` | ints | what was generated; ends with the stop token when that ended it |
| ``text`` | text or null | of ``token_ids``, where the model has a tokenizer |
| ``logprobs`` | floats or nulls | a value a token: under the model itself, in nats; null where the row's normaliser is unknown |
| ``processed_logprobs`` | floats or nulls | the same under what was drawn from |
| ``finish_reason`` | text | "stop" or "length" |
| ``stop_match`` | ints or null | what ended it |
| ``seed`` | text | the run's seed, which may be larger than 64 bits |

Rows are in the order of ``(prompt_index, index)``. Nothing in them depends on time, so a run made twice has the same octets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from seedbed.generation.result import SampledSequence

__all__ = ["COLUMNS", "encode_row", "row_of"]

COLUMNS = (
    "prompt_index",
    "index",
    "id",
    "prompt_token_ids",
    "token_ids",
    "text",
    "logprobs",
    "processed_logprobs",
    "finish_reason",
    "stop_match",
    "seed",
)


def row_of(sequence: SampledSequence, name: str | None, text: str | None) -> dict[str, Any]:
    """A sequence in the columns above."""
    values = (
        sequence.prompt_index,
        sequence.index,
        name,
        list(sequence.prompt_token_ids),
        list(sequence.token_ids),
        text,
        list(sequence.logprobs),
        list(sequence.processed_logprobs),
        sequence.finish_reason,
        None if sequence.stop_match is None else list(sequence.stop_match),
        str(sequence.resume.seed),
    )
    return dict(zip(COLUMNS, values, strict=True))


def encode_row(row: dict[str, Any]) -> bytes:
    """One line of JSON. -inf, the log-probability of what the model excludes and a draw of another engine may still take, is null."""
    return orjson.dumps(row) + b"\n"
