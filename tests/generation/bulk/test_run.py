"""A file of prompts in, a file of rows out, and whatever interrupts it, the same octets in the end."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from seedbed import Sampler, TinyLM, TopLogprobs, generate
from seedbed.errors import DeadlineExceeded, MissingExtra, TruncatedRow, UsageError
from seedbed.generation.bulk import Recipe, generate_file, output
from seedbed.generation.bulk import run as run_module
from seedbed.generation.bulk.columns import COLUMNS
from seedbed.generation.bulk.output import Finished
from seedbed.llm import PrefixCache
from seedbed.observing import BulkBegan, PromptFinished, observe
from seedbed.testing import ScriptedLLM

MODEL = TinyLM()
PROMPTS = [f'{{"prompt": "The seed {"of " * (place % 4)}", "id": {place}}}' for place in range(12)]
PROMPTS[5] = '{"token_ids": [72, 105]}'
PROMPTS[7] = ""


PARQUET = pytest.param("out.parquet", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(PROMPTS))
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PART", 5)


class Sleeping(TinyLM):
    """Takes a thousand seconds for each answer of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        setattr(self, kind, self._sleep)

    async def _sleep(self, _) -> None:
        await trio.sleep(1000)


async def run(prompts: Path, out: Path, model=MODEL, **more):
    arguments = {"n": 2, "seed": 7, "sampler": Sampler(0.9, top_k=10), "max_new_tokens": 8} | more
    return await generate_file(prompts, out, model, **arguments)


def files(directory: Path) -> dict[str, bytes]:
    """What the output consists of, whatever its kind."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


async def test_rows_have_the_columns_and_are_what_generate_gives(prompts: Path, tmp_path: Path) -> None:
    report = await run(prompts, tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    texts = [json.loads(line).get("prompt", "Hi") if line else "?" for line in PROMPTS]
    want = await generate([list(text.encode()) for text in texts], TinyLM(), 2, seed=7, sampler=Sampler(0.9, top_k=10), max_new_tokens=8)
    sampled = [s for s in want.sequences if s.prompt_index != 7]

    assert [tuple(row) for row in rows] == [COLUMNS] * 22
    assert [(r["prompt_index"], r["index"], r["token_ids"], r["logprobs"], r["processed_logprobs"]) for r in rows] == [
        (s.prompt_index, s.index, list(s.token_ids), list(s.logprobs), list(s.processed_logprobs)) for s in sampled
    ]
    assert [r["text"] for r in rows] == [bytes(t for t in s.token_ids if t < 256).decode() for s in sampled]
    assert [r["id"] for r in rows[::2]] == [*map(str, range(5)), None, "6", *map(str, range(8, 12))]
    assert (report.is_complete, report.lines, report.before, report.prompts, report.sequences) == (True, 12, 0, 11, 22)
    assert report.tokens == sum(len(r["token_ids"]) for r in rows)


@pytest.mark.parametrize("name", ["out.jsonl", PARQUET, "out"])
def test_killed_at_any_moment_the_same_command_ends_with_the_same_octets(prompts: Path, tmp_path: Path, name: str) -> None:
    """SIGKILL at the n-th call that changes a file, before it, after it or in its middle; and again while it is gone on with."""
    chance = random.Random(7)
    (tmp_path / "whole").mkdir()
    trio.run(lambda: run(prompts, tmp_path / "whole" / name))
    want, kills, states = files(tmp_path / "whole"), 0, set()
    for number in range(4):
        directory = tmp_path / str(number)
        directory.mkdir()
        for _ in range(3):
            if not killed(chance, lambda: trio.run(lambda: run(prompts, directory / name, seed=7))):  # noqa: B023
                break
            kills += 1
            states.add(str(files(directory)))
        report = trio.run(lambda: run(prompts, directory / name))  # noqa: B023

        assert files(directory) == want
        assert report.is_complete
    assert kills >= 4
    assert len(states) > 3


def killed(chance: random.Random, do) -> bool:
    """Whether a child that does it died of it."""
    child = os.fork()
    if not child:
        try:
            left = [chance.randint(1, 24)]
            for name in ("write", "fsync", "ftruncate", "unlink"):
                setattr(os, name, dying(getattr(os, name), name, left, chance))
            do()
        finally:
            os._exit(0)
    chance.random()
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def dying(real, name: str, left: list[int], chance: random.Random):
    def call(*arguments, **more):
        left[0] -= 1
        if not left[0]:
            if name == "write":
                real(arguments[0], bytes(arguments[1])[: chance.randint(0, len(arguments[1]))])
            elif chance.random() < 0.5:
                real(*arguments, **more)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    return call


if sys.platform == "win32":
    test_killed_at_any_moment_the_same_command_ends_with_the_same_octets = pytest.mark.skip("needs fork and signals")(
        test_killed_at_any_moment_the_same_command_ends_with_the_same_octets
    )


async def test_torn_and_incomplete_ends_are_cut_off_and_had_again(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await run(prompts, out)
    whole = out.read_bytes()
    ends = [place for place in range(len(whole)) if whole[place] == 10]
    for end in (0, 1, ends[0], ends[0] + 1, ends[1], ends[1] + 1, ends[2] + 1, ends[9] + 5, len(whole) - 1, len(whole)):
        for torn in (b"", b'{"prompt_index": 3, "in', b"\0" * 50, b"[]\n", b"\n"):
            out.write_bytes(whole[:end] + torn)
            await run(prompts, out)

            assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": 3}, "n was 2 and is 3"),
        ({"seed": 8}, "seed was '7' and is '8'"),
        ({"max_new_tokens": None}, "max_new_tokens was 8 and is None"),
        ({"sampler": Sampler(0.8)}, r"sampler was \"Sampler.*TopK.* and is 'Sampler\(chain=\[Temperature\(t=0.8\)\]\)'"),
        ({"stop_token_ids": [10]}, r"stop_token_ids was \[\] and is \[10\]"),
        ({"text": False}, "text was True and is False"),
    ],
)
async def test_a_run_is_not_gone_on_with_otherwise(prompts: Path, tmp_path: Path, change, says: str) -> None:
    await run(prompts, tmp_path / "out.jsonl")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=rf"out.jsonl was begun otherwise: {says}\. Give the same again to go on, or write elsewhere"):
        await run(prompts, tmp_path / "out.jsonl", **change)

    assert files(tmp_path) == before


@pytest.mark.parametrize("wrong", [{"n": "2"}, {"max_new_tokens": -1}, {"stop_token_ids": 5}, {"stop_sequences": [1, 2]}, {"text": "yes"},
                                   {"stop_token_ids": [257]}, {"sampler": 0.8}, {"seed": -1}])  # fmt: skip
async def test_what_is_wrong_with_the_arguments_is_said_before_anything_is_begun(prompts: Path, tmp_path: Path, wrong) -> None:
    with pytest.raises(UsageError, match="must be|vocabulary"):
        await run(prompts, tmp_path / "out.jsonl", **wrong)

    assert list(tmp_path.iterdir()) == [prompts]


@pytest.mark.parametrize("end", [-1, 300])
async def test_a_model_whose_end_never_comes_is_taken_as_by_generate(prompts: Path, tmp_path: Path, end: int) -> None:
    class Endless(TinyLM):
        eos_token_ids = (end,)

    report = await run(prompts, tmp_path / "out.jsonl", Endless(), text=True)

    assert (report.is_complete, report.prompts) == (True, 11)


@pytest.mark.parametrize("wrong", [{"seed": None}, {"seed": "x"}, {"seed": 7.5}, {"seed": "9" * 39}, {"text": None}, {"text": "yes"}])
async def test_what_is_written_beside_the_output_and_is_damaged_is_said(prompts: Path, tmp_path: Path, wrong) -> None:
    out = tmp_path / "out.jsonl"
    await run(prompts, out, seed=None)
    beside = tmp_path / "out.jsonl.run.json"
    good = json.loads(beside.read_text())
    beside.write_text(json.dumps({name: value for name, value in (good | wrong).items() if value is not None}, indent=2) + "\n")
    with pytest.raises(UsageError, match=r"out.jsonl.run.json is not what a run writes: its seed is|seed must be"):
        await run(prompts, out, seed=None)
    beside.write_text(json.dumps(good, indent=2) + "\n")

    assert (await run(prompts, out, seed=None)).before == 12  # nobody holds it


async def test_rows_of_another_width_are_not_mixed_whatever_is_around_the_model(prompts: Path, tmp_path: Path) -> None:
    class Listing(TinyLM):
        top_k = 20

    async with PrefixCache(Listing()) as cached, PrefixCache(PrefixCache(TinyLM())) as whole:
        await run(prompts, tmp_path / "out.jsonl", cached)
        assert (await run(prompts, tmp_path / "out.jsonl", Listing())).before == 12
        with pytest.raises(UsageError, match="rows was 20 and is 'all'"):
            await run(prompts, tmp_path / "out.jsonl", whole)


async def test_changed_prompts_and_another_model_are_named_together(prompts: Path, tmp_path: Path) -> None:
    await run(prompts, tmp_path / "out")
    prompts.write_text(prompts.read_text() + '\n"one more"')

    with pytest.raises(UsageError, match="prompts was '12 lines, sha256 .*fingerprint was .*context_length was 2048 and is 4096"):
        await generate_file(prompts, tmp_path / "out", TinyLM(2, context_length=4096), 2, seed=7, sampler=Sampler(0.9, top_k=10),
                            max_new_tokens=8)  # fmt: skip


async def test_other_prompts_alone_are_named_with_the_ways_on(prompts: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out.jsonl", tmp_path / "other.jsonl"
    await run(prompts, out)
    other.write_text('"a"\n"b"\n')
    with pytest.raises(UsageError) as caught:
        await run(other, out)

    assert str(caught.value) == (
        f"{other} is not the file {out} was begun with (12 lines then, 2 now); "
        f"go on with the old file, write elsewhere, or delete {out} and {out}.run.json"
    )


@pytest.mark.parametrize("name", ["out", "out.jsonl", PARQUET])
async def test_a_run_that_failed_before_its_first_row_is_in_nobodys_way(prompts: Path, tmp_path: Path, name: str) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("The seed\n")
    (tmp_path / "want").mkdir()
    await run(prompts, tmp_path / "want" / name)
    (tmp_path / "got").mkdir()
    with pytest.raises(UsageError, match="is no JSON"):
        await run(plain, tmp_path / "got" / name, n=1, stop_sequences=[[1] * 500])
    await run(prompts, tmp_path / "got" / name)

    assert files(tmp_path / "got") == files(tmp_path / "want")


async def test_a_seed_that_was_not_given_is_chosen_once(prompts: Path, tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        first = await run(prompts, tmp_path / "out.jsonl", seed=None)
        scope.cancel()
    whole = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(whole[: len(whole) // 2])
    again = await run(prompts, tmp_path / "out.jsonl", seed=None)
    other = await run(prompts, tmp_path / "other.jsonl", seed=None)

    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert first.seed == again.seed != other.seed
    assert 0 < again.before < 12


async def test_a_bad_line_ends_the_run_at_its_place_or_is_skipped_and_listed(prompts: Path, tmp_path: Path) -> None:
    lines = list(PROMPTS)
    lines[3], lines[9], lines[11] = "{", "[300]", '{"prompt": 1}'
    prompts.write_text("\n".join(lines))
    out = tmp_path / "out"
    with pytest.raises(
        UsageError, match=r"prompts.jsonl:4: is no JSON: .*\. Skip such lines with keep_going=True; or correct it, and write elsewhere"
    ):
        await run(prompts, out)
    assert (out / "part-00000.jsonl").read_text().count("\n") == 6
    report = await run(prompts, out, keep_going=True)
    everything = files(out)
    again = await run(prompts, out, keep_going=True)

    assert files(out) == everything
    assert (report.skipped, report.prompts, report.before, again.prompts) == (3, 5, 3, 0)
    assert [json.loads(line)["line"] for line in (out / "_skipped.jsonl").read_text().splitlines()] == [4, 10, 12]
    assert report.problems[1] == (f"{prompts}:10: prompt 9 holds token id 300 at place 0; the model's vocabulary has ids 0 to 256")


async def test_rows_too_short_for_the_sampler_end_the_run_whatever_is_skipped(prompts: Path, tmp_path: Path) -> None:
    """Only some prompts need more than is listed; what is left without them would be no sample of what was asked."""
    row = TopLogprobs([1, 2, 256], [-1.0, -1.5, -2.0], 257)
    model = ScriptedLLM({}, default=row, stop_token_id=256)
    prompts.write_text('{"token_ids": [1]}\n' * 3)
    with pytest.raises(TruncatedRow, match="ask it for"):
        await run(prompts, tmp_path / "out", model, sampler=Sampler(top_p=0.95), keep_going=True)


async def test_a_model_without_an_end_is_no_trouble(prompts: Path, tmp_path: Path) -> None:
    class Endless(TinyLM):
        eos_token_ids = ()

    assert (await run(prompts, tmp_path / "out", Endless())).prompts == 11


async def test_what_is_there_already_and_is_none_of_ours_is_left_alone(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "part-00000.jsonl").write_text("precious\n")
    before = files(tmp_path)
    for name, says in (
        ("out.jsonl", "is there already, and was not made by such a run"),
        ("there", "is there already, and was not made by such a run"),
        ("out.csv", "rows go to a .jsonl or .parquet file, or to a directory, not to 'out.csv'"),
        ("out.ndjson", "rows go to a .jsonl or .parquet file, or to a directory, not to 'out.ndjson'"),
        ("none/out.jsonl", "cannot be written: No such file or directory"),
    ):
        with pytest.raises(UsageError, match=says):
            await run(prompts, tmp_path / name)

    assert files(tmp_path) == before


async def test_two_runs_at_once_are_refused(prompts: Path, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(prompts, tmp_path / "out.jsonl"))
        await trio.testing.wait_all_tasks_blocked(0) if False else await trio.lowlevel.checkpoint()
        while not (tmp_path / "out.jsonl.run.json").exists():
            await trio.lowlevel.checkpoint()
        with pytest.raises(UsageError, match="another run is writing to"):
            await run(prompts, tmp_path / "out.jsonl")


async def test_a_timeout_leaves_what_there_is_and_the_rest_for_later(prompts: Path, tmp_path: Path, autojump_clock) -> None:
    early = await run(prompts, tmp_path / "out.jsonl", Sleeping("next_token_logits"), timeout=5)
    stopped = trio.current_time()
    late = await run(prompts, tmp_path / "out.jsonl")

    assert (early.is_complete, early.prompts, stopped) == (False, 0, 5)
    assert (late.is_complete, late.prompts) == (True, 11)


async def test_a_timeout_holds_for_the_first_question_too(prompts: Path, tmp_path: Path, autojump_clock) -> None:
    with pytest.raises(DeadlineExceeded, match="before the model had said whether it has text: nothing was begun"):
        await run(prompts, tmp_path / "out.jsonl", Sleeping("detokenize"), timeout=5)

    assert trio.current_time() == 5
    assert list(tmp_path.iterdir()) == [prompts]


@pytest.mark.parametrize("timeout", [-1, math.nan, "5", True])
async def test_a_timeout_that_is_none_is_refused_before_anything_is_begun(prompts: Path, tmp_path: Path, timeout) -> None:
    with pytest.raises(UsageError, match="timeout must be seconds >= 0, or math.inf for no limit"):
        await run(prompts, tmp_path / "out.jsonl", timeout=timeout)

    assert list(tmp_path.iterdir()) == [prompts]


async def test_prompts_that_vanish_meanwhile_are_missed_in_words(prompts: Path, tmp_path: Path) -> None:
    job = await run_module.open_job(prompts, tmp_path / "out.jsonl", MODEL, Recipe(7, max_new_tokens=1))
    prompts.unlink()
    with job, pytest.raises(UsageError, match="^there is no file of prompts at"):
        await run_module.sample_missing(job, MODEL)


async def test_no_line_is_left_of_a_run_that_is_complete(prompts: Path, tmp_path: Path) -> None:
    prompts.write_text('\n"a"\n"b"\n\n\n')
    with await run_module.open_job(prompts, tmp_path / "out.jsonl", MODEL, Recipe(7, max_new_tokens=1)) as job:
        before = job.left
        job.write(Finished(1, b"{}\n"))
        between = job.left
        job.write(Finished(2, b"{}\n"))
        job.complete()

        assert (before, between, job.left) == (5, 3, 0)


@pytest.mark.parametrize("name", ["out.jsonl", PARQUET, "out"])
async def test_nothing_to_sample_is_legal(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "one").write_text('"a"')
    nothing = await run(tmp_path / "empty", tmp_path / name)
    none = await run(tmp_path / "one", tmp_path / f"n0-{name}", n=0)

    assert (nothing.is_complete, nothing.prompts, nothing.sequences, nothing.before) == (True, 0, 0, 0)
    assert (none.is_complete, none.prompts, none.sequences, none.before) == (True, 1, 0, 0)
    assert (tmp_path / name).exists()


async def test_an_observer_hears_every_prompt_in_order(prompts: Path, tmp_path: Path) -> None:
    heard = []

    class Ear:
        def notice(self, event) -> None:
            heard.append(event)

    with observe(Ear()):
        report = await run(prompts, tmp_path / "out.jsonl")
    finished = [event for event in heard if isinstance(event, PromptFinished)]

    assert [event for event in heard if isinstance(event, BulkBegan)] == [BulkBegan(12, 0, 2)]
    assert [event.prompt_index for event in finished] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    assert sum(event.tokens for event in finished) == report.tokens


async def test_parquet_has_the_same_rows(prompts: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    await run(prompts, tmp_path / "out.parquet")
    await run(prompts, tmp_path / "out.jsonl")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()

    assert rows == [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {path.name for path in tmp_path.iterdir()} >= {"out.parquet", "out.parquet.run.json"}
    assert not (tmp_path / "out.parquet.partial.jsonl").exists()


async def test_a_disk_that_is_full_when_parquet_is_made_loses_nothing(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    await run(prompts, tmp_path / "want.parquet")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("seedbed.generation.bulk.parquet.table_of", full)
        await run(prompts, tmp_path / "out.parquet")
    left = {path.name for path in tmp_path.glob("*out.parquet*")}
    again = await run(prompts, tmp_path / "out.parquet")

    assert left == {"out.parquet.partial.jsonl", "out.parquet.run.json"}
    assert (again.prompts, again.is_complete) == (0, True)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "want.parquet").read_bytes()


def full(_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_without_pyarrow_nothing_is_begun(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pip install 'seedbed\\[parquet\\]'"):
        await run(prompts, tmp_path / "out.parquet")

    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]
