"""A recording has no tokenizer; it answers what the model's own was asked while it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.recording.samples import write, writer_of

from seedbed import RecordingLLM, ReplayLLM, TinyLM, connect, open_recording, replay_transport
from seedbed.errors import RecordingBroken, UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.recording.format import STEPS
from seedbed.recording.merge import replace_recording
from seedbed.recording.texts import TEXTS
from seedbed.testing import cancel_at_each_step

TEXT = "The \u00e4rger"
IDS = list(TEXT.encode())


class Asked(TinyLM):
    """Counts what its tokenizer is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    async def tokenize(self, text: str) -> list[int]:
        self.asked.append(text)
        return await super().tokenize(text)

    async def detokenize(self, token_ids) -> str:
        self.asked.append(tuple(token_ids))
        return await super().detokenize(token_ids)


async def talk(llm) -> tuple[list[int], str]:
    return await llm.tokenize(TEXT), await llm.detokenize(IDS[:6])


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    async with RecordingLLM(TinyLM(), tmp_path / "r") as recorded:
        await talk(recorded)
    return tmp_path / "r"


async def test_what_was_asked_replays_and_nothing_else(path: Path) -> None:
    replay = ReplayLLM(path)

    assert await talk(replay) == (IDS, "The \u00e4")
    with pytest.raises(
        UsageError, match=r"it was not asked for 'Why\?': give token ids instead of text; or, to add it: `seedbed record URL"
    ):
        await replay.tokenize("Why?")
    with pytest.raises(UsageError, match="no tokenizer"):
        await replay.detokenize([1])
    with pytest.raises(UsageError, match="to add it: `make it so`$"):
        await ReplayLLM(path, how_to_extend="make it so").tokenize("Why?")


async def test_a_text_and_its_token_ids_are_two_questions(path: Path) -> None:
    """Not every text comes back as it went."""
    with pytest.raises(UsageError, match="no tokenizer"):
        await ReplayLLM(path).detokenize(IDS)


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"kserve-v2"}))
async def test_through_every_protocol_that_knows_a_tokenizer(path: Path, protocol: str) -> None:
    more = {"eos_token_ids": [256], "vocab_size": 257}
    async with connect("http://nobody.invalid", protocol, transport=replay_transport(path, protocol), **more) as model:
        assert await model.tokenize(TEXT) == IDS


async def test_what_is_recorded_is_asked_once_also_after_the_recorder_was_stopped(tmp_path: Path) -> None:
    model = Asked()
    async with RecordingLLM(model, tmp_path / "r") as recorded:
        await talk(recorded)
        recorded.leave_unsealed()
    async with RecordingLLM(model, tmp_path / "r") as recorded:
        assert await talk(recorded) == await talk(recorded) == (IDS, "The \u00e4")

    assert model.asked == [TEXT, tuple(IDS[:6])]
    assert len((tmp_path / "r" / TEXTS).read_text().splitlines()) == 2


def test_cancelled_it_is_either_recorded_or_not(tmp_path: Path) -> None:
    async def record() -> None:
        async with RecordingLLM(TinyLM(), tmp_path / "r", extend=True) as recorded:
            await talk(recorded)

    cancel_at_each_step(record, lambda: len(open_recording(tmp_path / "r").texts) in (0, 1, 2))

    assert len(open_recording(tmp_path / "r").texts) == 2


def test_any_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r", seal=False)
    with writer_of(path, "top_k") as writer:
        writer.note_text("The", [7], is_tokenized=True)
        writer.note_text("A", [8], is_tokenized=False)
        writer.abandon()
    whole = (path / TEXTS).read_bytes()
    for place in range(len(whole) - 1):
        (path / TEXTS).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RecordingBroken, match=r"texts.jsonl line [12] is damaged"):
            open_recording(path)
        (path / TEXTS).write_bytes(whole[:place])
        assert len(open_recording(path).texts) == whole[:place].count(b"\n")


async def test_a_sealed_recording_has_the_texts_it_was_sealed_with(path: Path) -> None:
    whole = (path / TEXTS).read_bytes()
    for damaged in (whole[:-1], whole + whole, whole.replace(b"84", b"85", 1), b""):
        (path / TEXTS).write_bytes(damaged)
        with pytest.raises(RecordingBroken, match=r"texts.jsonl is not what was sealed"):
            open_recording(path)
    (path / TEXTS).unlink()
    with pytest.raises(RecordingBroken, match=r"texts.jsonl is missing"):
        open_recording(path)


@pytest.mark.parametrize("keep_unasked", [True, False])
def test_made_anew_what_was_not_asked_again_is_kept_or_dropped_as_steps_are(tmp_path: Path, keep_unasked: bool) -> None:
    for name, text in (("old", "A"), ("fresh", "B")):
        write(tmp_path / name, seal=False)
        with writer_of(tmp_path / name, "top_k") as writer:
            writer.note_text(text, [1], is_tokenized=True)
    replace_recording(tmp_path / "old", tmp_path / "fresh", keep_unasked=keep_unasked)

    assert set(open_recording(tmp_path / "old").texts.tokenized) == ({"A", "B"} if keep_unasked else {"B"})


def test_a_recording_without_texts_has_no_such_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r")

    assert not (path / TEXTS).exists()
    assert list(json.loads((path / "manifest.json").read_text())["sha256"]) == [STEPS]
