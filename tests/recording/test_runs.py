"""What was sampled, as a value and as a line: whole or refused, and every sequence with the address of its draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.recording.samples import RUN, write, writer_of

from seedbed import RecordingLLM, Sampler, TinyLM, generate, open_recording
from seedbed.errors import RecordingBroken, UsageError
from seedbed.recording import Run, lines
from seedbed.recording.runs import RUNS


class Token(int):
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Token.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def line_of(run: Run, **change: object) -> bytes:
    """Its line, changed by somebody who knows how to make a checksum; None leaves a member out."""
    data = lines.parse(run.to_line()) | change
    return lines.checked({name: value for name, value in data.items() if name != "crc32" and value is not None})


def test_a_line_gives_the_same_run_back() -> None:
    for run in (RUN, Run("tokens", ((1,), ()))):
        assert Run.from_line(run.to_line()) == run
    assert lines.parse(RUN.to_line())["prompts"] == [[4, 5]]


async def test_every_sequence_has_the_address_it_was_drawn_at(tmp_path: Path) -> None:
    """Of equal prompts too, which no guess from neighbours tells apart."""
    prompt = list(b"The ")
    async with RecordingLLM(TinyLM(), tmp_path / "r") as model:
        model.note(await generate([prompt] * 3, model, n=2, seed=7, max_new_tokens=2), "equal")
    run = open_recording(tmp_path / "r").runs["equal"]

    assert run.prompts == (tuple(prompt),) * 6
    assert (run.prompt_indices, run.indices) == ((0, 0, 1, 1, 2, 2), (0, 1, 0, 1, 0, 1))


def test_a_line_from_before_addresses_were_written_is_read_as_it_was_meant() -> None:
    prompts = ((1,), (1,), (2,), (1,))
    run = Run("r", ((9,),) * 4, prompts, 7, repr(Sampler()))
    old = Run.from_line(line_of(run, prompt_index=None, index=None))

    assert (old.prompt_indices, old.indices) == ((0, 0, 1, 2), (0, 1, 0, 0))
    assert old == run


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": ()}, "has a seed and no prompts"),
        ({"prompts": ((1,),)}, "2 sequences and 1 prompts"),
        ({"finish_reasons": ("stop",)}, "2 sequences and 1 finish reasons"),
        ({"indices": (0,)}, "give a prompt index and an index for each"),
        ({"prompt_indices": (0, 1)}, "give a prompt index and an index for each"),
        ({"seed": -1}, "seed"),
        ({"prompt_indices": (0, 2**48), "indices": (0, 0)}, "prompt_index"),
    ],
)
def test_a_run_that_cannot_be_followed_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Run("mine", **({"token_ids": ((1,), (2,)), "prompts": ((1,), (2,)), "seed": 3, "sampler": repr(Sampler())} | change))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_of": [], "prompts": []}, {"prompt_of": [0]}, {"prompt_of": [0, 1]}, {"prompt_of": [0, -1]}, {"prompt_of": [0, True]},
        {"finish_reasons": ["stop"]}, {"index": [0]}, {"index": [0, -1]}, {"index": [0, 2**64 - 1], "prompt_index": [0, 2**48]},
        {"prompt_index": [0, "0"]}, {"prompt_index": [0, 0, 0]}, {"seed": "-1"}, {"seed": str(2**128)}, {"token_ids": [[1]]},
    ],
)  # fmt: skip
def test_a_line_that_breaks_the_rules_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path / "recording", seal=False)
    (path / RUNS).write_bytes(line_of(RUN, **change))
    with pytest.raises(RecordingBroken, match=r"runs.jsonl line 1 is damaged"):
        open_recording(path)


def test_a_run_of_many_prompts_is_written_without_comparing_each_with_each() -> None:
    prompts = tuple(tuple(map(Token, (*range(20), last))) for last in range(100, 200))
    run = Run("many", ((1,),) * 100, prompts, 7, repr(Sampler()))
    Token.compared = 0
    run.to_line()

    assert Token.compared <= 100 * 21


def test_sealing_writes_no_run_again_unless_one_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    to_line = Run.to_line
    monkeypatch.setattr(Run, "to_line", lambda run: written.append(run.name) or to_line(run))
    with writer_of(tmp_path / "recording", "top_k") as writer:
        writer.note(RUN)
    assert written == ["r"]
    with writer_of(tmp_path / "recording", "top_k", extend=True) as writer:
        writer.note(Run("r", ((1,),)))

    assert written == ["r", "r", "r"]
    assert (tmp_path / "recording" / RUNS).read_bytes() == Run("r", ((1,),)).to_line()
