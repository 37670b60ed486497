"""Recording while sampling: what is kept is what was sampled from, whoever asked, and whenever it was cut short."""

from __future__ import annotations

import base64
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from seedbed import HashLM, ModelInfo, RecordingLLM, ReplayLLM, Sampler, TinyLM, TopLogprobs, connect, generate, open_recording, serve
from seedbed.errors import NonFiniteLogits, RecordingExists, RecordingLocked, TruncatedRow, UsageError
from seedbed.protocols import PROTOCOLS
from seedbed.testing import ScriptedLLM, cancel_at_each_step, check_llm

INFO = ModelInfo(model="m", vocab_size=4, eos_token_ids=(0,))
PROMPT = list(b"The seed")


class Noisy(ScriptedLLM):
    """Every answer is another one, as from a server whose rows depend on its batch."""

    def __init__(self, delay: float = 0) -> None:
        self.answers = 0

        def next_row(prefix):
            self.answers += 1
            return [-2.0, self.answers / 10, 0.0, 1.0]

        super().__init__(next_row, info=INFO, delay=delay)


async def sampled(llm, **changes):
    arguments = {"n": 4, "seed": 7, "max_new_tokens": 12, "sampler": Sampler(temperature=0.9)} | changes
    return await generate(PROMPT, llm, **arguments)


@pytest.mark.parametrize("tier", ["top_k", "full"])
async def test_it_keeps_the_contract(tmp_path: Path, tier: str) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", tier) as recorded:
        await check_llm(recorded)
    await check_llm(ReplayLLM(tmp_path / "recording"))


@pytest.mark.parametrize("tier", ["top_k", "full"])
async def test_the_recorded_run_and_its_replay_are_the_same(tmp_path: Path, tier: str) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", tier, top_k=5) as recorded:
        live = await sampled(recorded)

    assert await sampled(ReplayLLM(tmp_path / "recording")) == live
    assert all(mass >= 0 for s in live.sequences for mass in s.tail_masses)


async def test_a_full_recording_answers_the_models_own_rows_and_so_the_models_own_tokens(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", "full") as recorded:
        live = await sampled(recorded)
        row = await recorded.next_token_logits(PROMPT)

    assert np.array_equal(row, await TinyLM().next_token_logits(PROMPT))
    assert live == await sampled(TinyLM())
    assert (recorded.info.max_top_k, open_recording(tmp_path / "recording").top_k) == (None, None)


async def test_a_model_may_use_its_buffer_again(tmp_path: Path) -> None:
    buffer = np.zeros(4, dtype=np.float32)

    class Reusing(ScriptedLLM):
        async def next_token_logits(self, prev_token_ids):
            buffer[1] += 1
            return buffer

    async with RecordingLLM(Reusing({}, info=INFO), tmp_path / "recording", "full") as recorded:
        first, second = [await recorded.next_token_logits([n]) for n in (1, 2)]

    assert (first[1], second[1]) == (2, 3)
    assert (await ReplayLLM(tmp_path / "recording").next_token_logits([1])).tolist() == first.tolist()


@pytest.mark.parametrize("tier", ["top_k", "full"])
async def test_a_row_nothing_can_be_drawn_from_is_refused_and_not_recorded(tmp_path: Path, tier: str) -> None:
    llm = ScriptedLLM({(1,): [0.0, float("nan"), 0.0, 0.0]}, default=[0.0] * 4, info=INFO)
    async with RecordingLLM(llm, tmp_path / "recording", tier, top_k=4) as recorded:
        with pytest.raises(NonFiniteLogits):
            await recorded.next_token_logits([1])

    assert open_recording(tmp_path / "recording").get([1]) is None


async def test_full_rows_of_a_model_that_lists_its_best_are_refused_unless_the_list_is_complete(tmp_path: Path) -> None:
    rows = {(1,): TopLogprobs([1], [-0.5], 4)}
    llm = ScriptedLLM(rows, default=TopLogprobs([3, 2, 1, 0], [-0.5, -2, -3, -4], 4), info=INFO)
    async with RecordingLLM(llm, tmp_path / "recording", "full") as recorded:
        assert (await recorded.next_token_logits([2])).tolist() == [-4, -3, -2, -0.5]
        with pytest.raises(TruncatedRow, match="the full row was asked for, 1 of 4 tokens are known"):
            await recorded.next_token_logits([1])


class TestConditions:
    async def test_alone_or_with_others_cold_or_warm_and_how_long_it_took(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock
    ) -> None:
        """3 is asked alone; 5 and 6 overlap for a second, so both were answered in company."""
        path = tmp_path / "recording"
        llm = ScriptedLLM({}, default=[0.0, 1.0, 2.0, 3.0], info=INFO, delay=lambda prefix: len(prefix) * 1.5)
        async with RecordingLLM(llm, path, top_k=2) as recorded:
            await recorded.next_token_logits([3])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(recorded.next_token_logits, [3, 1])
                await trio.sleep(2)
                nursery.start_soon(recorded.next_token_logits, [2, 2, 2])
            await recorded.next_token_logits([2, 2])
        steps = {step.prefix: step.observations[0].asked for step in open_recording(path).steps}

        assert {prefix: (*asked.tags, asked.concurrency, asked.latency) for prefix, asked in steps.items()} == {
            (0,): ("solo", "cold", 1, 1.5),
            (3,): ("solo", "cold", 1, 1.5),
            (3, 1): ("concurrent", "warm", 2, 3.0),
            (2, 2, 2): ("concurrent", "cold", 2, 4.5),
            (2, 2): ("solo", "cold", 1, 3.0),
        }

    async def test_after_a_restart_nothing_is_known_to_be_warm(self, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        for extend in (False, True):
            async with RecordingLLM(TinyLM(), path, extend=extend) as recorded:
                await recorded.next_token_logits([1] if not extend else [1, 2])

        assert open_recording(path).get([1, 2]).observations[0].asked.cache == "cold"


class TestRepeats:
    async def test_every_prefix_is_asked_so_many_times_in_all_conditions(
        self, tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("seedbed.recording.record.random.Random", partial(random.Random, 7))  # else a condition is missed now and then
        path = tmp_path / "recording"
        async with RecordingLLM(Noisy(delay=1), path, top_k=4, repeats=5) as recorded:
            for token_id in range(12):
                await recorded.next_token_logits([1, 2, token_id % 4, token_id])
        recording = open_recording(path)
        tags = [o.asked.tags for step in recording.steps for o in step.observations[1:]]

        assert [len(step.observations) for step in recording.steps] == [5] * 13
        assert len({row for step in recording.steps for row in (o.row for o in step.observations)}) == 65
        assert {("solo", "warm"), ("concurrent", "warm")} == set(tags)
        assert recording.is_sealed

    async def test_of_a_repeatable_server_they_take_short_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        async with RecordingLLM(HashLM(1000), path, "full", repeats=4) as recorded:
            await recorded.next_token_logits([1, 2])
        recording = open_recording(path)

        assert [[o.same_as for o in step.observations] for step in recording.steps] == [[None, 0, 0, 0]] * 2
        assert (path / "logits-00001.safetensors").stat().st_size == 4096 + 2 * 4000

    async def test_they_are_completed_by_running_again(self, tmp_path: Path) -> None:
        path = tmp_path / "recording"

        class Dying(TinyLM):
            left = 9

            async def next_token_logits(self, prev_token_ids):
                self.left -= 1
                if self.left < 0:
                    raise OSError("gone")
                return await super().next_token_logits(prev_token_ids)

        async def run(llm) -> None:
            async with RecordingLLM(llm, path, repeats=3) as recorded:
                for n in range(5):
                    await recorded.next_token_logits([n])

        with pytest.raises(OSError, match="gone"):  # bare: no group of one
            await run(Dying())
        assert not open_recording(path).is_sealed
        await run(TinyLM())

        assert [len(step.observations) for step in open_recording(path).steps] == [3] * 6
        assert open_recording(path).is_sealed

    async def test_more_can_be_had_later(self, tmp_path: Path) -> None:
        path = tmp_path / "recording"
        for repeats in (1, 3, 2):
            async with RecordingLLM(TinyLM(), path, repeats=repeats, extend=True) as recorded:
                await recorded.next_token_logits([1])

        assert [len(step.observations) for step in open_recording(path).steps] == [3] * 3


class Scoring(TinyLM):
    """Scores a sequence in one request, and counts them."""

    can_score = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    async def score(self, token_ids):
        self.asked.append(bytes(token_ids) if max(token_ids) < 256 else b"end")
        return [await self.next_token_logits(token_ids[: length + 1]) for length in range(len(token_ids))]


async def test_scores_are_asked_for_only_where_one_is_missing(tmp_path: Path) -> None:
    async def scored(repeats: int, *prefixes: bytes) -> list[bytes]:
        model = Scoring()
        async with RecordingLLM(model, tmp_path / "r", repeats=repeats, scored=True, extend=True) as recorded:
            for prefix in prefixes:
                await recorded.next_token_logits(list(prefix))
        return model.asked

    assert await scored(2, b"The", b"Th") == [b"The", b"The", b"end", b"end", b"\0", b"\0"]
    assert await scored(2, b"The") == []
    assert await scored(2, b"The s") == [b"The s", b"The s"]
    assert await scored(3, b"A") == [b"The s", b"end", b"\0", b"A", b"A", b"A"]
    assert [step.scored for step in open_recording(tmp_path / "r").steps] == [3] * 6


async def test_what_was_sampled_is_kept_beside_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    async with RecordingLLM(TinyLM(), path) as recorded:
        result = await sampled(recorded)
        recorded.note(result)
        recorded.note(result)
    (run,) = open_recording(path).runs.values()

    assert [list(tokens) for tokens in run.token_ids] == result.token_ids
    assert (run.seed, run.sampler, set(run.prompts)) == (7, result.sampler, {tuple(PROMPT)})
    assert open_recording(path).manifest.token_texts[ord("T")] == "T"


async def test_a_proxy_of_a_model_that_does_not_tell_its_tokens_texts_speaks_every_protocol_all_the_same(tmp_path: Path) -> None:
    async with (
        serve(TinyLM()) as server,
        connect(server.url, top_k=20) as model,
        RecordingLLM(model, tmp_path / "recording") as recorded,
    ):
        want = await recorded.next_token_logits(PROMPT)
        for protocol in PROTOCOLS:
            if protocol == "kserve-v2":
                continue  # it moves full rows, and these are the 20 best
            told = {} if protocol in ("native", "llama.cpp") else {"eos_token_ids": [256], "vocab_size": 257}
            async with serve(recorded, protocols=[protocol]) as proxy, connect(proxy.url, protocol, top_k=20, **told) as client:
                assert client.info.eos_token_ids == (256,)
                assert await client.next_token_logits(PROMPT) == want
        assert await recorded.tokenize("The <|7|>") == list(b"The <|7|>")


async def test_two_recorders_of_one_recording_are_one_too_many(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording") as recorded:
        with pytest.raises(RecordingLocked, match="wait until it is done"):
            async with RecordingLLM(TinyLM(), tmp_path / "recording"):
                pass
        await recorded.next_token_logits([5])

    assert len(open_recording(tmp_path / "recording").steps) == 3


async def test_no_secret_enters_a_recording(tmp_path: Path) -> None:
    """Passed in every way there is; every file is searched, raw and as base64."""
    secret = "canary-5eed-bed"
    async with serve(TinyLM()) as server:
        urls = [
            (server.url.replace("http://", f"http://user:{secret}@"), {}),
            (server.url + f"/?key={secret}", {}),
            (server.url, {"api_key": secret}),
            (server.url, {"headers": [("x-api-key", secret), ("authorization", f"Bearer {secret}"), ("cookie", secret)]}),
        ]
        for number, (url, more) in enumerate(urls):
            for tier in ("top_k", "full"):
                path = tmp_path / f"{number}-{tier}"
                async with connect(url, "native", **more) as model, RecordingLLM(model, path, tier, repeats=2) as recorded:
                    recorded.note(await sampled(recorded, n=1))
                    said = repr(recorded)
                files = b"".join(file.read_bytes() for file in path.iterdir()) + said.encode()
                for canary in (secret.encode(), base64.b64encode(f"user:{secret}".encode()), server.url.encode()):
                    assert canary not in files or (canary == server.url.encode() and canary not in files.replace(said.encode(), b""))


async def test_a_prefix_has_one_row_whoever_asks_first(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with RecordingLLM(Noisy(delay=1), tmp_path / "recording", top_k=4) as recorded:
        rows = []

        async def ask() -> None:
            rows.append(await recorded.next_token_logits([1, 2]))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        rows.append(await recorded.next_token_logits([1, 2]))

    assert all(row == rows[0] for row in rows)
    assert (await ReplayLLM(tmp_path / "recording").next_token_logits([1, 2])) == rows[0]


async def test_what_is_recorded_is_not_asked_again(tmp_path: Path) -> None:
    llm = ScriptedLLM({}, default=[0.0, 1.0, 0.0, 0.0], info=INFO)
    async with RecordingLLM(llm, tmp_path / "recording", top_k=4) as recorded:
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await recorded.next_token_logits([1])

    assert llm.asked == [(0,), (1,)]  # the first lets connect() verify a replay


async def test_a_run_that_failed_is_resumed_by_running_it_again(tmp_path: Path) -> None:
    """Cut short after any number of answers, the rerun's recording holds the same steps as the undisturbed one's."""
    async with RecordingLLM(TinyLM(), tmp_path / "undisturbed") as recorded:
        undisturbed = await sampled(recorded)
    want = {step.prefix: step.row for step in open_recording(tmp_path / "undisturbed").steps}
    for survived in (1, 2, 17, len(want) - 1):

        class Dying(TinyLM):
            left = survived

            async def next_token_logits(self, prev_token_ids):
                if not self.left:
                    raise OSError("gone")
                self.left -= 1
                return await super().next_token_logits(prev_token_ids)

        path = tmp_path / str(survived)
        with pytest.raises(OSError, match="gone"):
            async with RecordingLLM(Dying(), path) as recorded:
                await sampled(recorded)
        assert 1 <= len(open_recording(path).steps) <= survived  # siblings may have asked the same
        async with RecordingLLM(TinyLM(), path) as recorded:
            assert await sampled(recorded) == undisturbed
        assert {step.prefix: step.row for step in open_recording(path).steps} == want


def test_cancelled_at_any_step_the_recording_is_valid_and_can_be_continued(tmp_path: Path) -> None:
    attempts = 0
    path = tmp_path / "0"

    async def main() -> None:
        async with RecordingLLM(TinyLM(), path) as recorded:
            await sampled(recorded, n=2, max_new_tokens=3)

    def check() -> None:
        nonlocal attempts, path
        if (path / "manifest.json").exists():
            recording = open_recording(path)
            assert not recording.is_sealed or len(recording.steps) == steps
        trio.run(main_again)
        assert {step.prefix: step.row for step in open_recording(path).steps} == want
        attempts += 1
        path = tmp_path / str(attempts)

    async def main_again() -> None:
        async with RecordingLLM(TinyLM(), path, extend=True) as recorded:
            await sampled(recorded, n=2, max_new_tokens=3)

    trio.run(main)
    want = {step.prefix: step.row for step in open_recording(path).steps}
    steps = len(want)
    path = tmp_path / "first"

    assert cancel_at_each_step(main, check) > 8


async def test_a_run_that_was_cut_short_is_left_to_be_continued(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    async with RecordingLLM(TinyLM(), path, repeats=2) as recorded:
        await recorded.next_token_logits([1])
        recorded.leave_unsealed()
    assert not open_recording(path).is_sealed
    assert all(len(step.observations) == 1 for step in open_recording(path).steps)
    async with RecordingLLM(TinyLM(), path, repeats=2) as recorded:
        await recorded.next_token_logits([1])

    assert open_recording(path).is_sealed
    assert all(len(step.observations) == 2 for step in open_recording(path).steps)


async def test_a_finished_recording_is_extended_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    async with RecordingLLM(TinyLM(), path) as recorded:
        await sampled(recorded, n=1)
    with pytest.raises(RecordingExists):
        async with RecordingLLM(TinyLM(), path):
            pass
    async with RecordingLLM(TinyLM(), path, extend=True) as recorded:
        more = await sampled(recorded)

    assert await sampled(ReplayLLM(path)) == more


async def test_it_cannot_be_used_before_it_is_entered(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="async with RecordingLLM"):
        await RecordingLLM(TinyLM(), tmp_path / "recording").next_token_logits([1])


@pytest.mark.parametrize(
    ("llm", "top_k"),
    [
        (ScriptedLLM({}), 1),
        (ScriptedLLM({}, info=ModelInfo()), 1),
        (TinyLM(), 0),
        (ScriptedLLM({}, info=ModelInfo(vocab_size=9, max_top_k=3)), 4),
        (TinyLM(), True),
    ],
)
def test_a_model_that_cannot_be_recorded_so_is_refused(tmp_path: Path, llm: object, top_k: int) -> None:
    with pytest.raises(UsageError):
        RecordingLLM(llm, tmp_path / "recording", top_k=top_k)
    assert not (tmp_path / "recording").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tier": "half"}, "tier must be 'full' or 'top_k'"),
        ({"repeats": 0}, "repeats must be an int of 1 or more"),
        ({"repeats": True}, "repeats must be an int of 1 or more"),
        ({"tier": "full", "llm": ScriptedLLM({}, info=ModelInfo(vocab_size=9, max_top_k=3))}, "tier='full' needs whole rows"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RecordingLLM(arguments.pop("llm", TinyLM()), tmp_path / "recording", **arguments)
    assert not (tmp_path / "recording").exists()


async def test_it_passes_on_what_the_model_can(tmp_path: Path) -> None:
    async with RecordingLLM(TinyLM(), tmp_path / "recording", top_k=7) as recorded:
        assert await recorded.detokenize(await recorded.tokenize("The")) == "The"
        assert recorded.token_bytes(65) == b"A"
        assert recorded.eos_token_ids == (256,)
        assert recorded.info.max_top_k == 7
        assert repr(recorded) == "<RecordingLLM of TinyLM(order=6): 2 steps>"
