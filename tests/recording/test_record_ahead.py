"""Recording what is asked ahead: the same rows and tokens, each row marked by how it was had."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
import trio

from seedbed import RecordingLLM, ReplayLLM, Sampler, TinyLM, connect, generate, open_recording
from seedbed.errors import NonFiniteLogits, UsageError
from seedbed.recording import Asked
from seedbed.regression import Verdict, check
from seedbed.server.asgi import asgi_app
from seedbed.testing import cancel_at_each_step, check_llm

PROMPT = list(b"The seed")
FIRST = 2  # steps that connect() would ask of a replay


class Ahead(TinyLM):
    """Goes on greedily by itself, as a server does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def logits_ahead(self, prev_token_ids, count):
        self.asked += 1
        prefix, rows = list(prev_token_ids), []
        for _ in range(count):
            rows.append(await self.next_token_logits(prefix))
            prefix.append(int(rows[-1].argmax()))
        return prefix[len(prev_token_ids) :], rows


async def sampled(llm, **changes):
    arguments = {"n": 3, "seed": 7, "max_new_tokens": 12, "sampler": Sampler(temperature=0.9), "lookahead": 4} | changes
    return await generate(PROMPT, llm, **arguments)


def conditions(path: Path) -> list[tuple[str, ...]]:
    return [step.observations[0].asked.tags for step in open_recording(path).steps]


@pytest.mark.parametrize("tier", ["top_k", "full"])
async def test_the_run_its_replay_and_the_run_without_are_the_same(tmp_path: Path, tier: str) -> None:
    llm = Ahead()
    async with RecordingLLM(llm, tmp_path / "ahead", tier) as recorded:
        live = await sampled(recorded)
        await check_llm(recorded)
    async with RecordingLLM(TinyLM(), tmp_path / "one", tier) as recorded:
        one_by_one = await sampled(recorded, lookahead=1)

    assert live == one_by_one == await sampled(ReplayLLM(tmp_path / "ahead"))
    assert llm.asked < one_by_one.stats.round_trips
    ahead, one = open_recording(tmp_path / "ahead"), open_recording(tmp_path / "one")
    assert all(ahead.get(step.prefix).sha256 == step.sha256 for step in one.steps)


async def test_rows_behind_the_first_are_marked(tmp_path: Path) -> None:
    """Four rows of one answer, then one that was asked for by itself; read back from the disk."""
    async with RecordingLLM(Ahead(), tmp_path / "r") as recorded:
        proposed, rows = await recorded.logits_ahead(PROMPT, 4)
        await recorded.next_token_logits([*PROMPT, 0])
        again = await recorded.logits_ahead(PROMPT, 4)

    assert len(rows) == 4
    assert conditions(tmp_path / "r")[FIRST:] == [("solo", "cold"), *[("solo", "cold", "decode")] * 3, ("solo", "warm")]
    assert [step.prefix for step in open_recording(tmp_path / "r").steps[FIRST:-1]] == [(*PROMPT, *proposed[:j]) for j in range(4)]
    assert again == ((), (rows[0],))  # it is recorded, so nobody is asked


async def test_the_phase_survives_the_disk() -> None:
    for asked in (Asked(1, "cold", 0.5, "decode"), Asked(phase="decode"), Asked(2, "warm"), Asked()):
        assert Asked.from_line(asked.to_line()) == asked
    with pytest.raises(ValueError, match="phase"):
        Asked.from_line({"phase": "later"})


async def test_a_check_compares_the_repeats_of_what_was_had_ahead(tmp_path: Path) -> None:
    """They were asked for one by one, as the check asks. Without them it says what to do, and drift under another condition is none."""
    for repeats in (1, 2):
        async with RecordingLLM(Ahead(), tmp_path / str(repeats), repeats=repeats) as recorded:
            await sampled(recorded)
    report = await check(tmp_path / "2", TinyLM())

    assert report.verdict == Verdict.IDENTICAL
    assert report.subject["not compared"] == 0
    report = await check(tmp_path / "1", TinyLM())
    assert report.subject["not compared"] == sum("decode" in tags for tags in conditions(tmp_path / "1")) > 0


async def test_a_row_that_cannot_be_recorded_spoils_none_before_it(tmp_path: Path) -> None:
    class Broken(Ahead):
        async def next_token_logits(self, prev_token_ids):
            row = await super().next_token_logits(prev_token_ids)
            return row if len(prev_token_ids) < len(PROMPT) + 2 else np.full_like(row, np.nan)

    async with RecordingLLM(Broken(), tmp_path / "r") as recorded:
        with pytest.raises(NonFiniteLogits) as caught:
            await sampled(recorded, n=1)

    assert caught.value.step == 2
    assert len(open_recording(tmp_path / "r").steps) >= FIRST + 2
    assert all(len(step.prefix) < len(PROMPT) + 2 for step in open_recording(tmp_path / "r").steps)


async def test_a_recording_proxy_passes_on_what_the_client_draws_with(tmp_path: Path) -> None:
    """Client, proxy and server over the native protocol: as many requests behind the proxy as before it, each proposal accepted."""
    transport = httpx.ASGITransport(asgi_app(TinyLM()))
    async with (
        connect("http://server", "native", transport=transport) as behind,
        RecordingLLM(behind, tmp_path / "r", "full") as recorded,
        connect("http://proxy", "native", transport=httpx.ASGITransport(asgi_app(recorded))) as model,
    ):
        before = behind.statistics().requests
        result = await sampled(model, n=1, max_new_tokens=16, sampler=Sampler())

        assert result.stats.requests == behind.statistics().requests - before == -(-result.stats.tokens // 4)
    assert await sampled(ReplayLLM(tmp_path / "r"), n=1, max_new_tokens=16, sampler=Sampler()) == result


def test_cancelled_at_any_step_a_recording_holds_whole_answers_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "r"

    async def main() -> None:
        async with RecordingLLM(Ahead(), path, extend=True) as recorded:
            await sampled(recorded, n=2, max_new_tokens=3)

    undisturbed = trio.run(lambda: sampled(TinyLM(), n=2, max_new_tokens=3))

    def check_recording() -> None:
        if (path / "manifest.json").exists():
            open_recording(path).verify()

    assert cancel_at_each_step(main, check_recording) > 5
    assert trio.run(lambda: sampled(ReplayLLM(path), n=2, max_new_tokens=3)).token_ids == undisturbed.token_ids


async def test_it_cannot_be_asked_before_it_is_entered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="async with RecordingLLM"):
        await RecordingLLM(Ahead(), tmp_path / "r").logits_ahead([1], 3)
