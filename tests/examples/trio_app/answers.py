"""A service that answers questions, one a line, by best of n. Run it: ``python answers.py http://127.0.0.1:8017``"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import trio

from seedbed import LLM, Sampler, SeedbedError, connect, generate

SAMPLER = Sampler(top_k=8)
LONGEST_LINE = 1000


@dataclass(frozen=True)
class Answer:
    """The best of those continuations that came to an end; no text when none did in time."""

    question: str
    answer: str | None
    of: int


def tokens_of(text: str) -> list[int]:
    """The model this was written for reads octets; another one has a tokenizer."""
    return list(text.encode())


def text_of(token_ids: tuple[int, ...]) -> str:
    return bytes(token_id for token_id in token_ids if token_id < 256).decode("utf-8", "replace")


async def best_answer(question: str, llm: LLM, *, n: int = 4, seed: int = 7, patience: float = 10.0) -> Answer:
    result = await generate(tokens_of(question), llm, n, seed=seed, sampler=SAMPLER, max_new_tokens=40, timeout=patience)
    ended = [sequence for sequence in result.sequences if sequence.finish_reason == "stop"]
    if not ended:
        return Answer(question, None, 0)
    best = max(ended, key=lambda sequence: sequence.logprob / len(sequence.token_ids))
    return Answer(question, text_of(best.token_ids), len(ended))


async def talk(stream: trio.abc.Stream, llm: LLM) -> None:
    """Answer every line of one client; what the model server does wrong is told to the client, and the next line is answered."""
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            question = line.decode("utf-8", "replace").strip()
            if question:
                await stream.send_all(await _answered(question, llm))
        if len(rest) > LONGEST_LINE:
            return


async def _answered(question: str, llm: LLM) -> bytes:
    try:
        said = asdict(await best_answer(question, llm))
    except SeedbedError as error:
        said = {"question": question, "error": type(error).__name__}
    return json.dumps(said).encode() + b"\n"


async def main(url: str, port: int = 8018) -> None:
    async with connect(url) as llm:

        async def client(stream: trio.SocketStream) -> None:
            with trio.move_on_after(600):
                await talk(stream, llm)

        await trio.serve_tcp(client, port, host="127.0.0.1")


def run() -> None:
    trio.run(main, sys.argv[1])


if __name__ == "__main__":
    run()
