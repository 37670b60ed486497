"""The command line: what it prints, how it ends, and that every mistake gets one clear line."""

from __future__ import annotations

import io
import json
import os
import pty
import queue
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from seedbed import ModelInfo, RecordingLLM, ReplayLLM, TinyLM, generate, serve
from seedbed.cli import main, run
from seedbed.cli.prompts import PromptCommand
from seedbed.cli.serve import carrying
from seedbed.protocols import PROTOCOLS
from seedbed.server.faults import Fault
from seedbed.testing import ScriptedLLM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seedbed.protocols.exchange import HttpRequest

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "fixtures" / "recordings" / "tiny-lm")
SEED_IDS = "84,104,101,32,115,101,101,100"
RUN = "from seedbed.cli import run; run()"
COMMANDS = ["generate", "record", "replay", "inspect", "serve", "check", "probe", "conformance", "selftest", "doctor"]


@dataclass
class Run:
    returncode: int
    stdout: str
    stderr: str


def seedbed(*arguments: str) -> Run:
    """The command, in this process, from its arguments to its exit code."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    argv, sys.argv = sys.argv, ["seedbed", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            run()
    finally:
        sys.argv = argv
    return Run(ended.value.code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving command and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", RUN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        yield process, re.search(r"http://[^,\s]+", line)[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running("serve", "--port", "0") as (_, address):
        yield address


@pytest.fixture(scope="module")
def not_a_model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        cwd=tmp_path_factory.mktemp("www"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    process.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


@contextmanager
def silent_server(path: str, after: int = 0) -> Iterator[str]:
    """A server that answers nothing any more from so many requests of that path on."""

    def faults(request: HttpRequest) -> Fault | None:
        nonlocal after
        after -= request.route == path
        return Fault("stall", part=0.0) if after < 0 else None

    async def main() -> None:
        async with serve(TinyLM(), faults=faults) as server:
            over = trio.Event()
            started.put((server.url, partial(trio.lowlevel.current_trio_token().run_sync_soon, over.set)))
            await over.wait()

    started: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue()
    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    url, end = started.get(timeout=30)
    try:
        yield url
    finally:
        end()
        thread.join()


class TestGenerate:
    def test_the_same_seed_gives_the_same_output_and_n_a_prefix(self, url: str) -> None:
        three = seedbed("generate", url, "--prompt", "The seed", "-n", "3", "--seed", "7")
        again = seedbed("generate", url, "--prompt", "The seed", "-n", "3", "--seed", "7")
        eight = seedbed("generate", url, "--prompt", "The seed", "-n", "8", "--seed", "0x7")

        assert (three.returncode, three.stderr) == (0, "")
        assert three.stdout == again.stdout
        assert three.stdout.splitlines()[:3] == eight.stdout.splitlines()[:3]

    def test_json_holds_the_whole_result_and_nothing_else_is_printed(self, url: str) -> None:
        from seedbed import GenerationResult

        ran = seedbed("generate", url, "--token-ids", SEED_IDS, "--prompt", "In ", "-n", "2", "--json", "--max-new-tokens", "5")
        data = json.loads(ran.stdout)
        result = GenerationResult.from_dict(data)

        assert (ran.returncode, ran.stderr) == (0, "")
        assert [s.prompt_token_ids for s in result.sequences] == [(84, 104, 101, 32, 115, 101, 101, 100)] * 2 + [(73, 110, 32)] * 2
        assert (data["sha256"], data["model"]) == (result.sha256, "tiny-lm")
        assert data["sequences"][0]["text"] == bytes(t for t in result.sequences[0].token_ids if t < 256).decode()

    def test_a_fresh_seed_is_printed(self, url: str) -> None:
        ran = seedbed("generate", url, "--prompt", "The seed")
        seed = re.search(r"^seed +(\d+)$", ran.stdout, re.MULTILINE)[1]

        assert seedbed("generate", url, "--prompt", "The seed", "--seed", seed).stdout == ran.stdout

    def test_a_recording_is_a_source_too(self) -> None:
        ran = seedbed("generate", TINY, "--token-ids", SEED_IDS, "-n", "2", "--seed", "7", "--temperature", "0.9", "--top-k", "10",
                      "--max-new-tokens", "40")  # fmt: skip

        assert (ran.returncode, ran.stderr) == (0, "")
        assert "4 sequences" not in ran.stdout
        assert re.search(r"^sha256 [0-9a-f]{64}$", ran.stdout, re.MULTILINE)

    def test_prompts_are_taken_in_the_order_they_are_given_in(self, url: str) -> None:
        words = ["--prompt", "B", "--token-ids", "65", "--prompt=C", "-n1", "--token-ids=68,69", "--prompt", "F"]
        data = json.loads(seedbed("generate", url, *words, "--max-new-tokens", "0", "--json").stdout)

        assert [bytes(s["prompt_token_ids"]) for s in data["sequences"]] == [b"B", b"A", b"C", b"DE", b"F"]

    def test_a_deadline_keeps_what_there_is_and_says_what_has_the_rest(self, url: str) -> None:
        with silent_server("/v1/next_token_logits", after=1) as address:  # the probe
            ran = seedbed("generate", address, "--prompt", "The seed", "-n", "4", "--timeout", "0.5")
        command = [word.replace(address, url) for word in shlex.split(ran.stdout.splitlines()[-1].partition(": ")[2])]
        whole = seedbed(*command[1:])

        assert ran.returncode == 0
        assert len(re.findall("deadline +0 tokens", ran.stdout)) == 4
        assert (whole.returncode, whole.stdout.count(" tokens  ")) == (0, 4)
        assert seedbed(*command[1:]).stdout == whole.stdout

    def test_one_of_a_thing_is_said_as_one(self, url: str) -> None:
        ran = seedbed("generate", url, "--prompt", "The seed", "--max-new-tokens", "1", "--seed", "7")

        assert "1 sequence, 1 token from tiny-lm" in ran.stdout
        assert not re.search(r"\b1 \w+s\b", ran.stdout)

    def test_what_was_finished_is_shown_before_the_error_that_ended_the_rest(self, tmp_path: Path) -> None:
        """After 1 the end is certain, after 2 a token after which nothing was recorded."""
        path = str(tmp_path / "recording")

        async def record() -> None:
            llm = ScriptedLLM({(1,): [9.0, -99.0, -99.0]}, default=[-99.0, 9.0, -99.0], info=ModelInfo(vocab_size=3, eos_token_ids=(0,)))
            async with RecordingLLM(llm, path) as recorded:
                for prompt in ([1], [2], [2, 1]):
                    await recorded.next_token_logits(prompt)

        trio.run(record)
        arguments = ["generate", path, "--token-ids", "1", "--token-ids", "2", "--seed", "7"]
        lines, data = seedbed(*arguments), json.loads(seedbed(*arguments, "--json").stdout)

        assert lines.returncode == 5
        assert re.fullmatch("Error: the recording recording was never asked for this prefix of 3 tokens.*\n", lines.stderr)
        assert lines.stdout.splitlines() == [
            "0.0    stop           1 token  0",
            "1 of 2 sequences finished",  # and no advice to type the same again: what was not recorded is missed again
        ]
        assert [(s["finish_reason"], s["token_ids"]) for s in data["sequences"]] == [("stop", [0]), ("error", [1, 1])]

    def test_a_deadline_keeps_what_there_is(self, url: str) -> None:
        ran = seedbed("generate", url, "--prompt", "The seed", "-n", "200", "--max-new-tokens", "2000", "--timeout", "0.4")

        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.count(" deadline ") > 100

    @pytest.mark.parametrize("silent_from", ["/v1/model", "/v1/tokenize"])
    def test_a_deadline_covers_connecting_and_tokenizing_too(self, silent_from: str) -> None:
        with silent_server(silent_from) as address:
            ran = seedbed("generate", address, "--prompt", "The seed", "--timeout", "0.5")

            assert (ran.returncode, ran.stdout) == (3, "")
            assert ran.stderr.startswith("Error: the deadline came before ")
            assert ran.stderr.endswith("nothing was sampled; give a longer --timeout, or look after the server\n")

    def test_what_there_is_at_the_deadline_is_shown_though_the_server_is_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(import_module("seedbed.cli.generate"), "PATIENCE", 0.1)  # the package's name is the command
        with silent_server("/v1/next_token_logits", after=3) as address:  # the probe, and two steps
            ran = seedbed("generate", address, "--token-ids", "84,104", "--timeout", "0.5")

            assert (ran.returncode, ran.stderr) == (0, "")
            assert re.search(r"deadline +2 tokens  \d+ \d+$", ran.stdout, re.MULTILINE)

    def test_replicas_give_the_same_tokens_and_one_that_differs_is_refused(self, url: str) -> None:
        alone = seedbed("generate", url, "--prompt", "The seed", "-n", "4", "--seed", "7")
        with running("serve", "--port", "0") as (_, other), running("replay", TINY, "--port", "0") as (_, different):
            together = seedbed("generate", url, "--replica", other, "--prompt", "The seed", "-n", "4", "--seed", "7")
            mixed = seedbed("generate", url, "--replica", different, "--prompt", "The seed", "-n", "4", "--seed", "7")

            down = seedbed("generate", url, "--replica", "http://127.0.0.1:1", "--prompt", "The seed", "-n", "4", "--seed", "7")

        assert (together.returncode, together.stdout, together.stderr) == (0, alone.stdout, "")
        assert (down.returncode, down.stdout) == (0, alone.stdout)
        assert down.stderr.startswith("note: http://127.0.0.1:1 is left out at present: cannot connect to http://127.0.0.1:1: ")
        assert (mixed.returncode, mixed.stdout) == (3, "")
        assert "are no replicas of one model" in mixed.stderr


class TestRecord:
    def test_what_was_recorded_is_replayed_by_the_command_it_prints(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        live = seedbed("record", url, path, "--prompt", "The seed", "-n", "3", "--seed", "7", "--temperature", "0.8")
        command = live.stdout.splitlines()[-1].split()
        offline = seedbed(*command[1:])

        assert (live.returncode, offline.returncode) == (0, 0)
        hashes = [re.search(r"^sha256 (\w+)$", ran.stdout, re.MULTILINE)[1] for ran in (live, offline)]
        assert hashes[0] == hashes[1]
        assert seedbed("record", url, path, "--prompt", "The seed").returncode == 5
        assert seedbed("record", url, path, "--prompt", "The seed", "--extend").returncode == 0

    def test_cut_short_it_is_not_finished_and_the_command_it_prints_goes_on(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        sampling = ["--prompt", "The seed", "-n", "2", "--seed", "7"]
        with silent_server("/v1/next_token_logits", after=4) as address:
            cut = seedbed("record", address, path, *sampling, "--timeout", "0.5")
        kept = json.loads(seedbed("inspect", path, "--json").stdout)
        command = [word.replace(address, url) for word in shlex.split(cut.stderr.splitlines()[-1])]
        whole = seedbed(*command[1:])

        assert cut.returncode == 5
        assert f"steps are recorded in {path}, which is not finished. The same command goes on where it stopped:" in cut.stderr
        assert (kept["sealed"], kept["runs"]) == (False, {})
        assert command == ["seedbed", "record", url, path, "-n", "2", "--seed", "7", "--prompt", "The seed"]
        assert whole.returncode == 0
        assert json.loads(seedbed("inspect", path, "--json").stdout)["sealed"]

    def test_the_command_to_go_on_has_the_fresh_seed_and_no_secret(self, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        words = ["--prompt", "The", "--timeout", "0.5", "--keep", "all", "--api-key", "sekrit99", "--json"]
        with silent_server("/v1/next_token_logits", after=4) as one, silent_server("/v1/next_token_logits", after=4) as other:
            secret, replica = (url.replace("http://", "http://me:hunter22@") for url in (one, other))
            cut = seedbed("record", secret, path, *words, "--replica", replica)
        command = shlex.split(cut.stderr.splitlines()[-1])

        assert "hunter22" not in cut.stdout + cut.stderr
        assert "sekrit99" not in cut.stdout + cut.stderr
        assert command[command.index("--seed") + 1] == str(json.loads(cut.stdout)["seed"])
        assert {"--keep", "--json", "--replica", other} < set(command)

    def test_a_source_that_fails_leaves_what_was_recorded_and_what_to_type(self, tmp_path: Path) -> None:
        """A recording that is recorded itself, and misses."""
        path = str(tmp_path / "recording")
        ran = seedbed("record", TINY, path, "--token-ids", SEED_IDS, "-n", "9", "--seed", "8", "--temperature", "3")

        assert ran.returncode == 5
        assert re.match(
            r"\d+ steps are recorded in .*, which is not finished. .*:\n  seedbed record .* -n 9 --seed 8 .*\nError: .*\n$", ran.stderr
        )
        assert json.loads(seedbed("inspect", path, "--json").stdout)["sealed"] is False

    def test_nothing_is_made_when_the_prompt_is_wrong(self, url: str, tmp_path: Path) -> None:
        too_long = ",".join(["1"] * 2048)
        unknown = [["--token-ids", "x"], ["--token-ids", "999"], ["--token-ids", ""], ["--token-ids", too_long]]
        for wrong in ([], *unknown, ["--prompt", "x", "--seed", "-1"], ["--prompt", "x", "--temperature", "-1"]):
            assert seedbed("record", url, str(tmp_path / "recording"), *wrong).returncode == 2
        assert not (tmp_path / "recording").exists()

    def test_rows_that_are_too_short_ask_for_another_directory_and_not_for_the_same_command(self, url: str, tmp_path: Path) -> None:
        ran = seedbed("record", url, str(tmp_path / "recording"), "--prompt", "x", "--keep", "2", "--top-k", "5")

        assert (ran.returncode, ran.stderr.count("\n")) == (3, 1)
        assert f"(on the command line: --keep 5) (and another directory: {tmp_path / 'recording'} keeps" in ran.stderr

    def test_a_finished_one_is_added_to_by_an_option_that_is_named(self, url: str, tmp_path: Path) -> None:
        words = ["record", url, str(tmp_path / "recording"), "--prompt", "The", "--max-new-tokens", "1"]
        seedbed(*words)
        ran = seedbed(*words)

        assert (ran.returncode, ran.stderr.count("\n")) == (5, 1)
        assert "(on the command line: --extend)" in ran.stderr

    def test_a_full_recording_with_repeats(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        ran = seedbed("record", url, path, "--prompt", "The", "--keep", "all", "--repeats", "2", "--max-new-tokens", "3", "--seed", "7")
        data = json.loads(seedbed("inspect", path, "--json", "--verify").stdout)

        assert ran.returncode == 0
        assert (data["tier"], data["verified"], len(data["runs"])) == ("full", 2 * len(data["steps"]), 1)

    def test_listening_it_records_what_other_clients_ask_until_ctrl_c(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        sampling = ["--token-ids", SEED_IDS, "-n", "2", "--seed", "7", "--max-new-tokens", "9", "--json"]
        with running("record", url, path, "--listen", "0") as (process, address):
            live = [seedbed("generate", address, "--rows", "20", *sampling, "--protocol", name) for name in ("native", "llama.cpp")]
            asked = urllib.request.Request(f"{address}/completion", b'{"prompt": [9, 8], "n_predict": 1, "n_probs": 2}')
            best = json.loads(urllib.request.urlopen(asked).read())["completion_probabilities"][0]["id"]
            process.send_signal(signal.SIGINT)
            said, complaints = process.communicate(timeout=20)
        offline = seedbed("generate", path, *sampling)
        tokens = [[s["token_ids"] for s in json.loads(ran.stdout)["sequences"]] for ran in (*live, offline)]

        assert (process.returncode, complaints) == (0, "")
        port = address.rpartition(":")[2]
        assert f"steps are recorded in {path}. Replay them without the server:\n  seedbed replay {path} --port {port}\n" in said
        assert tokens[0] == tokens[1] == tokens[2]
        assert re.search(rf"^ +{best} ", seedbed("inspect", path, "--prefix", "9,8").stdout, re.MULTILINE)


class TestInspect:
    def test_a_recording_is_shown_as_a_tree_with_probabilities(self) -> None:
        ran = seedbed("inspect", TINY, "--lines", "6")

        assert ran.returncode == 0
        assert re.search(r"^model +tiny-lm on seedbed, fingerprint \w+$", ran.stdout, re.MULTILINE)
        assert re.search(r"├── 0\.656 +step \d+  32", ran.stdout)
        assert "more steps: --lines 24 shows more" in ran.stdout
        assert "step" not in ran.stdout.split("tree")[0].splitlines()[0]

    def test_every_step_is_shown_or_counted(self) -> None:
        ran = seedbed("inspect", TINY, "--lines", "100000")

        assert "more steps" not in ran.stdout

    def test_one_step_is_shown_with_its_row_and_every_answer(self) -> None:
        ran = seedbed("inspect", TINY, "--prefix", SEED_IDS)

        assert "step 2, after 8 tokens" in ran.stdout
        assert re.search(r"^ +32 +0\.6564 .*recorded further$", ran.stdout, re.MULTILINE)
        assert "answer 0: " in ran.stdout

    def test_texts_are_shown_where_the_model_told_them(self, tmp_path: Path) -> None:
        async def record() -> None:
            async with RecordingLLM(TinyLM(), tmp_path / "recording", "full") as llm:
                await generate(list(b"The seed"), llm, 3, seed=7, max_new_tokens=5)

        trio.run(record)

        assert "'The seed'" in seedbed("inspect", str(tmp_path / "recording")).stdout

    def test_json_holds_every_step(self) -> None:
        data = json.loads(seedbed("inspect", TINY, "--json").stdout)

        assert len(data["steps"]) == 462
        assert data["steps"][2]["tokens"] == [84, 104, 101, 32, 115, 101, 101, 100]
        assert data["steps"][2]["best"][0] == {"token_id": 32, "logprob": pytest.approx(-0.42097)}

    def test_verify_finds_a_damaged_row_and_says_which(self, tmp_path: Path, url: str) -> None:
        path = str(tmp_path / "recording")
        seedbed("record", url, path, "--prompt", "The", "--keep", "all", "--max-new-tokens", "2", "--seed", "7")
        assert "every hash matches" in seedbed("inspect", path, "--verify").stdout
        shard = Path(path) / "logits-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
        ran = seedbed("inspect", path, "--verify")

        assert (ran.returncode, ran.stdout) == (5, "")
        assert re.fullmatch(r"Error: step \d+: row \d+ of shard 1 is not the one recorded.*\n", ran.stderr)

    def test_two_recordings_are_compared(self, url: str, tmp_path: Path) -> None:
        paths = [str(tmp_path / name) for name in ("one", "other")]
        for path, n in zip(paths, ("2", "3"), strict=True):
            seedbed("record", url, path, "--prompt", "The", "-n", n, "--max-new-tokens", "4", "--seed", "7")
        same, differ = seedbed("inspect", "--diff", paths[0], paths[0]), seedbed("inspect", *paths, "--diff")
        data = json.loads(seedbed("inspect", "--diff", *paths, "--json").stdout)

        assert (same.returncode, differ.returncode) == (0, 5)
        assert "prefixes only in other" in differ.stdout
        assert (data["changed"], data["only_in_one"], data["same_model"]) == ([], [], True)
        assert data["only_in_other"]

    def test_verify_goes_with_all_that_is_shown(self, tmp_path: Path, url: str) -> None:
        path = str(tmp_path / "recording")
        seedbed("record", url, path, "--prompt", "The", "--keep", "all", "--max-new-tokens", "2", "--seed", "7")
        two, step = ["--diff", path, path, "--verify"], [path, "--prefix", "84,104,101", "--verify"]
        whole = [(seedbed("inspect", *words), json.loads(seedbed("inspect", *words, "--json").stdout)) for words in (two, step)]
        shard = Path(path) / "logits-00001.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1] + b"\x55")
        damaged = [seedbed("inspect", *words) for words in (two, step)]

        assert [ran.stdout.splitlines()[-1] for ran, _ in whole] == [
            "verified     recording: 4 answers, every hash matches",
            "verified     4 answers, every hash matches",
        ]
        assert [data["verified"] for _, data in whole] == [[4, 4], 4]
        assert [(ran.returncode, ran.stdout) for ran in damaged] == [(5, "")] * 2
        assert all(f"(in {path})" in ran.stderr for ran in damaged)


class TestServe:
    def test_ctrl_c_ends_it_with_130(self) -> None:
        with running("serve", "--port", "0") as (process, _):
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
            assert (process.returncode, said) == (130, "interrupted\n")

    def test_a_recording_is_served_as_the_model_it_was_made_from(self) -> None:
        with running("replay", TINY, "--port", "0") as (_, address):
            ran = seedbed("generate", address, "--token-ids", SEED_IDS, "-n", "2", "--seed", "7", "--temperature", "0.9", "--top-k", "10",
                          "--max-new-tokens", "40", "--json")  # fmt: skip
            miss = seedbed("generate", address, "--token-ids", "1,2")
        known = json.loads((ROOT / "fixtures" / "known_answers" / "recordings.json").read_text())["tiny-lm"]

        assert [s["token_ids"] for s in json.loads(ran.stdout)["sequences"]] == known["token_ids"][:2]
        assert miss.returncode == 3
        assert "knows no beginning of this prefix" in miss.stderr

    def test_every_protocol_that_can_carry_its_rows_is_spoken_and_the_command_it_prints_is_answered(self) -> None:
        told = ["--eos-token-id", "256", "--vocab-size", "257"]
        sampling = ["--token-ids", SEED_IDS, "--seed", "7", "--temperature", "0.9", "--top-k", "10", "--max-new-tokens", "3", "--json"]
        with running("replay", TINY, "--port", "0") as (process, address):
            printed = shlex.split([process.stdout.readline() for _ in range(2)][-1])
            tried = seedbed(*printed[1:])
            ran = [seedbed("generate", address, *sampling, *told, "--protocol", p) for p in sorted(set(PROTOCOLS) - {"kserve-v2"})]
            full = seedbed("generate", address, *sampling, *told, "--protocol", "kserve-v2")
            untold = seedbed("generate", address, *sampling, "--protocol", "vllm")

        assert tried.returncode == 0
        assert {tuple(json.loads(run.stdout)["sequences"][0]["token_ids"]) for run in ran} == {(44, 32, 111)}
        assert (full.returncode, "the full row was asked for, 20 of 257 tokens are known" in full.stderr) == (3, True)
        assert "(on the command line: --eos-token-id ID)" in untold.stderr

    def test_hypercorn_serves_the_same(self, url: str) -> None:
        with running("serve", "--port", "0", "--hypercorn") as (_, address):
            there = seedbed("generate", address, "--prompt", "The seed", "--seed", "7")

        assert (there.returncode, there.stderr) == (0, "")
        assert there.stdout == seedbed("generate", url, "--prompt", "The seed", "--seed", "7").stdout


class TestDoctor:
    def test_it_says_what_the_server_is_and_can(self, url: str) -> None:
        ran = seedbed("doctor", url, "--json", "--protocol", "llama.cpp")
        found = json.loads(ran.stdout)

        assert ran.returncode == 0
        assert (found["model"], found["protocol"], found["vocab_size"], found["eos_token_ids"]) == ("tiny-lm", "llama.cpp", 257, [256])
        assert (found["rows"], found["repeatable"], found["difference"]) == (50, True, 0.0)
        assert found["tokenizer"] == {"text": "The seed", "token_ids": list(b"The seed"), "detokenized": "The seed"}

    def test_json_has_numbers_where_a_person_has_words(self) -> None:
        """A recording repeats itself to the bit, and has no tokenizer."""
        words = seedbed("doctor", TINY).stdout
        found = json.loads(seedbed("doctor", TINY, "--json").stdout)

        assert "rows            the 20 most probable tokens, as log-probabilities" in words
        assert "repeatable      yes, the same question twice gave the same bits" in words
        assert (found["rows"], found["repeatable"], found["tokenizer"]) == (20, True, None)
        assert f"tokenizer       no ({found['no_tokenizer']})" in words

    def test_an_answer_that_differs_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = iter([[0.0, 1.0, 2.0], [0.0, 1.25, 2.0]] * 2)
        llm = ScriptedLLM(lambda _: next(rows), info=ModelInfo(vocab_size=3, eos_token_ids=(0,)))
        monkeypatch.setattr("seedbed.cli.source.ReplayLLM", lambda recording, how_to_extend: llm)

        assert "repeatable      no, the same question twice differed by up to 0.25\n" in seedbed("doctor", TINY).stdout
        found = json.loads(seedbed("doctor", TINY, "--json").stdout)
        assert (found["rows"], found["repeatable"], found["difference"]) == ("all", False, 0.25)


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "offered"),
        [("seedbed gen", "plain,generate\n"), ("seedbed inspect rec", "file,rec\n"), ("seedbed check r u --html r", "file,r\n")],
    )
    def test_a_shell_is_told_what_may_come_next(self, words: str, offered: str) -> None:
        """Commands by name, and where a path is wanted the files that there are; and it ends as a command that did what it was to do."""
        asked = {"_SEEDBED_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        script = Path(sys.executable).with_name("seedbed")
        ran = subprocess.run([script], env=os.environ | asked, capture_output=True, text=True, check=False)

        assert (ran.returncode, ran.stdout, ran.stderr) == (0, offered, "")


class TestMistakes:
    """Each gives one line on standard error, nothing on standard output, no traceback, and its exit code."""

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["generate", "http://127.0.0.1:1", "--prompt", "x"], 3, "cannot connect to http://127.0.0.1:1: connection refused"),
            (["doctor", "http://no-such-host.invalid"], 3, "cannot connect to http://no-such-host.invalid"),
            (["generate", "ftp://127.0.0.1", "--prompt", "x"], 2, "must look like http://host:port"),
            (["generate", "no/such/path", "--prompt", "x"], 2, "neither a URL such as http://host:port nor the directory of a recording"),
            (["generate", "URL"], 2, "give a prompt: --prompt TEXT, or --token-ids 1,2,3"),
            (["generate", "URL", "--prompt", "x", "--model", "gpt"], 3, "the server has the model 'tiny-lm', not 'gpt'"),
            (["generate", "URL", "--token-ids", "1,999"], 2, "prompt 0 holds token id 999 at place 1"),
            (["record", "recordings/seed", "http://127.0.0.1:1", "--prompt", "x"], 2, "give the server's URL first, then the directory"),
            (["generate", "URL/v1", "--prompt", "x"], 3, "give the server's address without /v1"),
            (["generate", "URL", "--token-ids", "1,x"], 2, "such as 1,2,3, not 'x'; for text there is --prompt"),
            (["generate", "URL", "--token-ids", ",".join(["1"] * 2048)], 2, "prompt 0 has 2048 tokens; the model's context holds 2048"),
            (["generate", "URL", "--prompt", "x", "--temperature", "-1"], 2, "temperature must be in [0, inf)"),
            (["generate", "URL", "--prompt", "x", "--top-p", "1.5"], 2, "top_p must be in (0, 1]"),
            (["generate", "URL", "--prompt", "x", "--seed", "-1"], 2, "seed must be in [0, 2**128)"),
            (["generate", "URL", "--prompt", "x", "--seed", "seven"], 2, "--seed must be a whole number"),
            (["generate", "URL", "--prompt", "x", "--rows", "few"], 2, "--rows must be a number of 1 or more, or 'all'"),
            (["generate", "URL", "--prompt", "x", "--rows", "2", "--top-k", "5"], 3, "ask it for top_k=5"),
            (["generate", "URL", "--prompt", "x", "--timeout", "-1"], 2, "timeout must be seconds >= 0"),
            (["generate", TINY, "--prompt", "x"], 2, "the recording tiny-lm has no tokenizer"),
            (["generate", TINY, "--token-ids", "1,2"], 5, "knows no beginning of this prefix"),
            (["generate", str(ROOT / "tests"), "--token-ids", "1"], 5, "no recording at"),
            (["replay", "no/such/path"], 5, "no recording at no/such/path"),
            (["replay", "http://user:secret@host"], 2, "http://host is a URL, and a recording is wanted"),
            (["inspect", "http://host"], 2, "http://host is a URL, and a recording is wanted"),
            (["record", "URL", "x", "--keep", "few"], 2, "--keep must be a number of 1 or more, or 'all'"),
            (["record", "URL", "x", "--rows", "5", "--token-ids", "1"], 2, "--rows 5 asks for fewer tokens than --keep 20 keeps"),
            (["record", "URL", "x", "--listen", "http"], 2, "--listen must be PORT or HOST:PORT"),
            (["record", "URL", "x", "--listen", "1", "--prompt", "x"], 2, "give either prompts to sample from, or --listen"),
            (["inspect", "no/such/path"], 5, "no recording at no/such/path"),
            (["inspect", TINY, TINY], 2, "give one recording, or two with --diff"),
            (["inspect", "--diff", TINY], 2, "--diff compares two recordings"),
            (["inspect", TINY, "--prefix", "1,2"], 5, "knows no beginning of this prefix"),
            (["inspect", TINY, "--prefix", "x"], 2, "--prefix must be token ids with commas between"),
            (["inspect", TINY, "--prefix", " "], 2, "--prefix is blank"),
            (["inspect", "--diff", TINY, TINY, "--prefix", "1"], 2, "--prefix shows one step of one recording"),
            (["inspect", ""], 2, "the path is blank, and must be a path"),
            (["generate", "", "--prompt", "x"], 2, "'' is neither a URL such as http://host:port nor the directory of a recording"),
            (["generate", TINY, "--token-ids", "1", "--model", "gpt"], 2, "was recorded from the model 'tiny-lm', not 'gpt'"),
            (["generate", TINY, "--prompts", "", "--out", "x"], 2, "--prompts is blank"),
            (["generate", "URL", "--prompt", "x", "--rows", "0"], 2, "--rows must be a number of 1 or more, or 'all'"),
            (["generate", "URL", "--prompt", "x", "--request-timeout", "0"], 2, "--request-timeout must be seconds above 0"),
            (["record", "URL", " ", "--prompt", "x"], 2, "the path is blank"),
            (["record", "URL", "x", "--listen", "1", "--json"], 2, "--json does not go with --listen"),
            (["record", "URL", "x", "--listen", "1", "-n", "2"], 2, "-n does not go with --listen"),
            (["record", "URL", "x", "--listen", "1", "--timeout", "2"], 2, "--timeout does not go with --listen"),
            (["check", TINY, "URL", "--html", ""], 2, "--html is blank"),
            (["check", TINY, "URL", "--junit", str(ROOT)], 2, "it is a directory"),
            (["check", TINY, "URL", "--junit", "no/such/directory/x"], 2, "its directory is not there"),
            (["conformance", "URL", "--token-ids", "84,999", "--protocol", "llama.cpp"], 2, "prompt 0 holds token id 999 at place 1"),
            (["serve", "hash:0"], 2, "MODEL must be 'tiny' or 'hash:V'"),
            (["serve", "gpt"], 2, "MODEL must be 'tiny' or 'hash:V'"),
            (["serve", "--host", "192.0.2.1", "--port", "0"], 2, "cannot listen on 192.0.2.1:0"),
            (["serve", "--host", "no-such-host.invalid"], 2, "no-such-host.invalid:8017: there is no machine of this name"),
            (["generate", "http://127.0.0.1:1", "--prompt", "x", "--top-p", "1.5"], 2, "top_p must be in (0, 1]"),
            (["generate", "URL", "--prompt", "x", "--replica", "foo"], 2, "--replica 'foo' is no URL such as http://host:port"),
            (["generate", "URL", "--prompt", "x", "--model", " "], 2, "--model is blank, and must be a name"),
            (["generate", "URL", "--prompts", "x", "--out", "y", "--ray", ""], 2, "--ray is blank, and must be an address"),
            (["generate", "URL", "--prompt", "x", "--api-key", ""], 2, "(on the command line: --api-key, or the variable SEEDBED_API_KEY)"),
            (["check", TINY, "URL", "--html", "x", "--junit", "./x"], 2, "--html and --junit both write x: name two files"),
            (["check", TINY, "URL", "--html", "-"], 2, "--html writes a file, and - is none: name it; standard output takes --json"),
        ],
        ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
    )  # fmt: skip
    def test_a_mistake_gets_one_line(self, url: str, arguments: list[str], code: int, says: str) -> None:
        ran = seedbed(*[word.replace("URL", url) for word in arguments])

        assert says in ran.stderr
        assert ran.returncode == code
        assert (ran.stdout, ran.stderr.count("\n")) == ("", 1)

    def test_what_a_recording_misses_is_added_by_the_command_it_names(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "recording")
        seedbed("record", url, path, "--prompt", "A", "--max-new-tokens", "1", "--seed", "1")
        words = [path, "--prompt", "The seed", "-n", "2", "--seed", "7", "--temperature", "0.9", "--max-new-tokens", "5"]
        (command,) = re.findall(r"`seedbed (.*)`", seedbed("generate", *words).stderr)
        added = seedbed(*shlex.split(command.replace("URL", url)))

        assert added.returncode == 0, added.stderr
        assert seedbed("generate", *words).returncode == 0

    def test_nothing_is_recorded_where_a_port_is_taken(self, url: str, tmp_path: Path) -> None:
        ran = seedbed("record", url, str(tmp_path / "recording"), "--listen", url.rpartition(":")[2])

        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
        assert "the port is in use" in ran.stderr
        assert not (tmp_path / "recording").exists()

    @pytest.mark.parametrize(
        "words", [["--protocol", "native"], ["--rows", "5"], ["--replica", "http://x"], ["--vocab-size", "9"]], ids=" ".join
    )
    def test_a_recording_refuses_what_says_how_to_ask_a_server(self, words: list[str]) -> None:
        ran = seedbed("generate", TINY, "--token-ids", SEED_IDS, *words)

        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == f"Error: {words[0]} says how a server is asked, and {TINY} is a recording: give a URL, or leave it out\n"

    def test_what_is_no_port_is_called_no_integer(self) -> None:
        assert "'abc' is not a valid integer.\n" in seedbed("serve", "--port", "abc").stderr

    @pytest.mark.parametrize("how", [[], ["--hypercorn"]], ids=["listener", "hypercorn"])
    def test_a_port_that_is_taken(self, how: list[str]) -> None:
        """In a process of its own: hypercorn does not close the socket that it could not bind."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            words = [sys.executable, "-c", RUN, "serve", "--port", str(port), *how]
            ran = subprocess.run(words, capture_output=True, text=True, check=False)

        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}: the port is in use, perhaps by another `seedbed serve`")

    def test_a_server_that_is_no_model_server(self, not_a_model_server: str) -> None:
        ran = seedbed("doctor", not_a_model_server)

        assert ran.returncode == 3
        assert re.fullmatch(
            r"Error: http://127.0.0.1:\d+ answers HTTP \(status \d+, server SimpleHTTP.*\), but does not speak .*\n", ran.stderr
        )

    def test_a_server_that_dies_in_mid_run(self) -> None:
        with running("serve", "hash:1000", "--port", "0") as (process, address):
            client = subprocess.Popen(
                [sys.executable, "-c", RUN, "generate", address, "--token-ids", "1", "-n", "4",
                 "--max-new-tokens", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            while not established(int(address.rsplit(":", 1)[1])):
                select.select([], [], [], 0.01)
            process.kill()
            out, said = client.communicate(timeout=60)

        assert client.returncode == 3
        assert re.fullmatch(r"Error: (cannot connect to|http).*(connection refused|closed the connection).*\n", said)
        assert out == "" or " of 4 sequences finished\n" in out

    def test_a_missing_extra_names_the_command_that_installs_it(self) -> None:
        code = "import sys; sys.modules['hypercorn'] = None; sys.argv[1:] = ['serve', '--hypercorn']; from seedbed.cli import run; run()"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert (ran.returncode, ran.stderr) == (2, "Error: serving with hypercorn needs it: pip install 'seedbed[server]'\n")

    def test_a_fault_of_our_own_is_one_line_unless_more_is_wanted(self) -> None:
        code = "import sys; from seedbed.cli import main, run; main.commands['serve'].callback = None; main.commands['serve'].params = [1]"
        code += "; sys.argv[1:] = ['serve']; run()"
        brief, full = (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | more)
            for more in ({}, {"SEEDBED_TRACEBACK": "1"})
        )

        assert (brief.returncode, brief.stderr.count("\n")) == (70, 1)
        assert "Traceback" in full.stderr


def established(port: int) -> bool:
    """Whether some client has a connection to a local port, as the kernel lists them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(int(remote.split(":")[1], 16) == port and state == "01" for _, _, remote, state, *_ in map(str.split, lines))


class TestForPeople:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_has_an_example_and_exit_codes(self, command: str) -> None:
        ran = seedbed(command, "--help")

        assert ran.returncode == 0
        assert f"seedbed {command}" in ran.stdout
        assert "Exit codes:" in ran.stdout

    def test_every_command_is_listed_here(self) -> None:
        assert sorted(main.commands) == sorted(COMMANDS)

    def test_a_terminal_sees_sequences_grow_and_a_pipe_does_not(self, url: str) -> None:
        """On a terminal the live view is drawn on standard error while standard output stays the same."""
        parent, child = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "generate", url, "--prompt", "The seed", "-n", "4", "--seed", "7"],
            stdout=subprocess.PIPE, stderr=child, text=True, env=os.environ | {"TERM": "xterm", "COLUMNS": "90", "LINES": "30"},
        )  # fmt: skip
        os.close(child)
        seen = b""
        while True:
            try:
                data = os.read(parent, 4096)
            except OSError:
                break
            if not data:
                break
            seen += data
        out, _ = process.communicate(timeout=60)
        os.close(parent)

        assert b"of 4 sequences done" in seen
        assert out == seedbed("generate", url, "--prompt", "The seed", "-n", "4", "--seed", "7").stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            ["generate", "URL", "--prompt", "The", "--max-new-tokens", "3"],
            ["inspect", TINY],
            ["serve", "--port", "0"],
            ["--help"],
        ],
        ids=lambda arguments: " ".join(arguments)[:12],
    )
    def test_a_reader_that_has_seen_enough_ends_it_quietly(self, url: str, arguments: list[str]) -> None:
        """The reading end is closed before the first line is written; 141 is what a shell calls a death by SIGPIPE."""
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as nobody:
            ran = subprocess.run(
                [sys.executable, "-c", RUN, *[url if word == "URL" else word for word in arguments]],
                stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip

        assert (ran.returncode, ran.stderr) == (141, "")

    @pytest.mark.parametrize("moment", ["click", "seedbed.cli.serve"])
    def test_ctrl_c_while_modules_are_imported_is_one_line(self, moment: str) -> None:
        code = f"""
import os, signal, sys
class AtImport:
    def find_spec(self, name, *_):
        if name == {moment!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("which is what some modules make of it")
sys.meta_path.insert(0, AtImport())
sys.argv[1:] = ["serve"]
from seedbed.__main__ import run
run()
"""
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")

    def test_an_output_that_is_closed_is_wanted_by_nobody(self) -> None:
        words = shlex.join([sys.executable, "-m", "seedbed", "--version"])
        ran = subprocess.run(["sh", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)

        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

    def test_every_command_is_described_on_one_line(self) -> None:
        lines = seedbed("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()

        assert [line.split()[0] for line in lines] == sorted(COMMANDS)
        assert not [line for line in lines if line.endswith("...")]

    def test_every_command_with_prompts_knows_their_order(self) -> None:
        takes_prompts = {name for name, command in main.commands.items() if any("--token-ids" in option.opts for option in command.params)}

        assert takes_prompts == {"generate", "record", "conformance"}
        assert {name for name in takes_prompts if isinstance(main.commands[name], PromptCommand)} == takes_prompts

    def test_the_version_is_said(self) -> None:
        import seedbed as package

        ran = subprocess.run([sys.executable, "-m", "seedbed", "--version"], capture_output=True, text=True, check=True)
        assert ran.stdout == f"seedbed, version {package.__version__}\n"


class TestWhatAStrangerTyped:
    """Faults found by using it."""

    def test_ctrl_c_while_connecting_to_a_silent_server_is_an_interruption(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            process = subprocess.Popen(
                [sys.executable, "-c", RUN, "doctor", url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)

        assert (process.returncode, said.strip()) == (130, "interrupted")

    def test_doctor_repeats_no_secret_of_the_url(self, url: str) -> None:
        ran = seedbed("doctor", url.replace("http://", "http://me:hunter22@") + "/?key=sekrit99")

        assert ran.returncode == 0
        assert "hunter22" not in ran.stdout + ran.stderr
        assert "sekrit99" not in ran.stdout + ran.stderr

    def test_json_text_is_exactly_the_text_or_null(self, url: str) -> None:
        """Random octets at a high temperature: line feeds and terminal commands among them."""
        arguments = ["--token-ids", SEED_IDS, "-n", "4", "--seed", "7", "--max-new-tokens", "40", "--json"]
        data = json.loads(seedbed("generate", url, "--temperature", "50", *arguments).stdout)
        recorded = json.loads(seedbed("generate", TINY, "--temperature", "0.9", "--top-k", "10", *arguments).stdout)

        for sequence in data["sequences"]:
            assert sequence["text"] == bytes(t for t in sequence["token_ids"] if t < 256).decode("utf-8", "replace")
        assert any("\n" in sequence["text"] or "\x1b" in sequence["text"] for sequence in data["sequences"])
        assert [sequence["text"] for sequence in recorded["sequences"]] == [None] * 4

    def test_no_terminal_command_of_a_model_reaches_the_terminal(self, url: str) -> None:
        ran = seedbed("generate", url, "--token-ids", SEED_IDS, "-n", "8", "--seed", "7", "--temperature", "50")

        assert all(line.isprintable() for line in ran.stdout.splitlines())

    def test_probability_that_was_never_drawn_is_said(self, url: str) -> None:
        some = seedbed("generate", url, "--prompt", "The seed", "--seed", "7", "--rows", "5", "--temperature", "3")
        whole = seedbed("generate", url, "--prompt", "The seed", "--seed", "7", "--temperature", "3")

        assert re.search(r"^note   up to \d+% of a step's probability was not listed", some.stdout, re.MULTILINE)
        assert "note" not in whole.stdout

    def test_a_prompt_that_is_no_utf_8_is_a_usage_error(self, url: str) -> None:
        ran = seedbed("generate", url, "--prompt", os.fsdecode(b"a\xff"))

        assert (ran.returncode, ran.stdout) == (2, "")
        assert "no UTF-8" in ran.stderr

    def test_a_full_disk_under_the_output_is_said(self, url: str) -> None:
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(
                [sys.executable, "-c", RUN, "generate", url, "--prompt", "The"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )

        assert (ran.returncode, ran.stderr) == (74, "Error: the output cannot be written: No space left on device\n")

    def test_the_printed_replay_has_every_prompt_and_is_quoted(self, url: str, tmp_path: Path) -> None:
        path = str(tmp_path / "r sp")
        live = seedbed("record", url, path, "--prompt", "The seed", "--prompt", "In ", "-n", "2", "--seed", "7")
        offline = seedbed(*shlex.split(live.stdout.splitlines()[-1])[1:])

        assert [re.search(r"^sha256 (\w+)$", ran.stdout, re.MULTILINE)[1] for ran in (live, offline)] == [offline.stdout.split()[-1]] * 2

    def test_help_is_no_error_and_neither_is_a_reader_that_leaves(self) -> None:
        assert seedbed("--help").returncode == 0
        assert seedbed("generate", "--help").returncode == 0


def test_a_server_names_the_protocols_that_can_carry_its_rows_and_no_others() -> None:
    assert carrying(TinyLM()) == list(PROTOCOLS)
    assert set(PROTOCOLS) - set(carrying(ReplayLLM(TINY))) == {"kserve-v2"}
