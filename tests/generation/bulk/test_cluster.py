"""On a Ray cluster the rows are those of one process: whatever the partition, whoever dies.

``make test-ray`` installs Ray and runs what is marked so: it starts a cluster of two workers, which takes some seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import trio

from seedbed import LLM, Sampler, TinyLM, connect
from seedbed.errors import MissingExtra, Overloaded, RequestRefused, ServerError, TruncatedRow, UsageError, WrongRunner
from seedbed.generation.bulk import BatchSampler, Pace, Recipe, generate_file, generate_file_on_ray
from seedbed.generation.bulk import cluster as cluster_module

RECIPE = Recipe(7, 2, Sampler(0.9, top_k=10), 12)
PACE = Pace(concurrency=8)
LINES = 120
RAY = {"RAY_USAGE_STATS_ENABLED": "0"}
DRIVER = """
import sys; sys.path.insert(0, {here!r})
import test_cluster as t, ray
from functools import partial
ray.init({address!r}, logging_level="ERROR", log_to_driver=False)
ray.cloudpickle.register_pickle_by_value(t)
t.generate_file_on_ray({prompts!r}, {out!r}, partial(t.opened, t.Slow, "", ""), t.RECIPE, pace=t.PACE, task_prompts=10)
"""


SERVER = """
import sys; sys.path.insert(0, {here!r})
import trio, test_cluster as t
from seedbed import serve

async def main():
    async with serve(t.Slow("", "")) as server:
        print(server.url, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


class Troubled(LLM):
    """TinyLM, until a prefix that begins with a certain text is asked for and nobody was in trouble before: then this process dies."""

    def __init__(self, text: str, marker: str) -> None:
        self._model, self._text, self._marker = TinyLM(), text.encode(), marker

    async def next_token_logits(self, prev_token_ids):
        if bytes(t for t in prev_token_ids if t < 256).startswith(self._text) and len(prev_token_ids) > len(self._text) + 5:
            try:
                os.close(os.open(self._marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return await self._model.next_token_logits(prev_token_ids)

    def get_stop_token_id(self) -> int:
        return 256

    @property
    def info(self):
        return self._model.info

    async def tokenize(self, text: str):
        return await self._model.tokenize(text)

    async def detokenize(self, token_ids):
        return await self._model.detokenize(token_ids)


class Slow(Troubled):
    async def next_token_logits(self, prev_token_ids):
        await trio.sleep(0.01)
        return await self._model.next_token_logits(prev_token_ids)


@asynccontextmanager
async def opened(kind=TinyLM, *arguments):
    yield kind(*arguments)


class Refusing(TinyLM):
    """Has no answer to one prefix."""

    def __init__(self, prefix: list[int]) -> None:
        super().__init__()
        self._prefix = prefix

    async def next_token_logits(self, prev_token_ids):
        if list(prev_token_ids) == self._prefix:
            raise Overloaded("too much", status=503)
        return await super().next_token_logits(prev_token_ids)


class InProcess:
    """As much of Ray as the driver asks for; a task is run where it is given out."""

    is_initialized = staticmethod(lambda: True)
    cluster_resources = staticmethod(lambda: {"CPU": 1.0})
    put = get = cancel = staticmethod(lambda thing: thing)
    exceptions = SimpleNamespace(RayError=())

    def remote(self, **_: object):
        return lambda function: SimpleNamespace(remote=function)


@asynccontextmanager
async def broken():
    raise Overloaded("too much", status=503, retry_after=2.0)
    yield


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "The seed {place} of"}}\n' for place in range(LINES)))
    return path


@pytest.fixture
def want(prompts: Path, tmp_path: Path) -> str:
    """The hash of the run of one process."""
    out = tmp_path / "want.jsonl"
    trio.run(lambda: generate_file(prompts, out, TinyLM(), 2, sampler=RECIPE.sampler, seed=7, max_new_tokens=12))
    return sha256(out)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    os.environ.update(RAY)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.ray
class TestBefore:
    def test_auto_leads_to_what_runs_here_and_to_nothing_that_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("ray")
        monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
        monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(UsageError, match="there is no Ray cluster on this machine"):
            cluster_module.require_cluster("auto")
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        with pytest.raises(UsageError, match="there is no Ray cluster at .*:1: Connection refused"):
            cluster_module.require_cluster("auto")


def killed_at_work(driver: int) -> bool:
    """Whether a Ray worker of a driver was at work on a task, and was killed."""
    psutil = pytest.importorskip("psutil")
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] == ["ray::_sample_part"]:
                process.kill()
                return True
    return False


@pytest.mark.ray
class TestCommand:
    @pytest.fixture
    def url(self):
        code = SERVER.format(here=str(Path(__file__).parent))
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            yield process.stdout.readline().strip()
            process.kill()

    def test_a_worker_that_is_killed_in_mid_run_changes_nothing(self, url: str, prompts: Path, tmp_path: Path, want: str) -> None:
        pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
        out = tmp_path / "rows.jsonl"
        words = f"generate {url} --prompts {prompts} --out {out} -n 2 --seed 7 --temperature 0.9 --top-k 10 --max-new-tokens 12"
        command = subprocess.Popen(
            [sys.executable, "-m", "seedbed", *words.split(), "--concurrency", "8", "--ray", "local"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | RAY,
        )  # fmt: skip
        was_killed = False
        while not was_killed and command.poll() is None:
            time.sleep(0.02)
            was_killed = out.exists() and out.stat().st_size > 0 and killed_at_work(command.pid)
        said, complained = command.communicate(timeout=300)

        assert was_killed, complained
        assert command.returncode == 0, complained
        assert re.fullmatch(rf"{LINES} prompts, {2 * LINES} sequences, \d+ tokens in {out}\nseed   7\n", said)
        assert not re.search("^(Error|Traceback)", complained, re.MULTILINE)  # Ray itself says that a worker died
        assert sha256(out) == want


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning")
class TestCluster:
    @pytest.mark.parametrize("task_prompts", [7, 50, None])
    def test_any_partition_gives_the_same_octets(self, cluster, prompts: Path, tmp_path: Path, want: str, task_prompts) -> None:
        out = tmp_path / "rows.jsonl"
        report = generate_file_on_ray(prompts, out, opened, RECIPE, pace=PACE, task_prompts=task_prompts)

        assert sha256(out) == want
        assert (report.is_complete, report.prompts) == (True, LINES)

    def test_over_http_and_parquet(self, cluster, prompts: Path, tmp_path: Path, want: str) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", "from seedbed.cli import run; run()", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            url = process.stdout.readline().split(",")[0].split()[-1]
            url = url[url.index("http") :]
            generate_file_on_ray(prompts, tmp_path / "rows.parquet", partial(connect, url), RECIPE, pace=PACE, task_prompts=30)
        finally:
            process.kill()
            process.communicate()
        rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
        lines = [json.loads(line) for line in (tmp_path / "want.jsonl").read_text().splitlines()]

        assert rows == lines

    def test_a_worker_that_is_killed_in_mid_run_changes_nothing(self, cluster, prompts: Path, tmp_path: Path, want: str) -> None:
        marker, out = tmp_path / "killed", tmp_path / "rows.jsonl"
        generate_file_on_ray(prompts, out, partial(opened, Troubled, "The seed 45 ", str(marker)), RECIPE, pace=PACE, task_prompts=20)

        assert marker.exists()
        assert sha256(out) == want

    def test_a_driver_that_is_killed_in_mid_run_is_gone_on_with(self, cluster, prompts: Path, tmp_path: Path, want: str) -> None:
        out = tmp_path / "rows.jsonl"
        code = DRIVER.format(here=str(Path(__file__).parent), address=cluster, prompts=str(prompts), out=str(out))
        driver = subprocess.Popen([sys.executable, "-c", code])
        while not (out.exists() and out.stat().st_size) and driver.poll() is None:
            time.sleep(0.01)
        driver.kill()
        driver.wait()
        had = out.read_bytes().count(b"\n")
        report = generate_file_on_ray(prompts, out, opened, RECIPE, pace=PACE, task_prompts=10)

        assert 0 < had < 2 * LINES
        assert report.before == had // 2
        assert sha256(out) == want

    def test_a_failing_server_is_told_as_its_own_error_with_what_was_had_kept(self, cluster, prompts: Path, tmp_path: Path) -> None:
        with pytest.raises(Overloaded, match="too much") as told:
            generate_file_on_ray(prompts, tmp_path / "rows.jsonl", broken, RECIPE)

        assert (told.value.status, told.value.retry_after) == (503, 2.0)

    def test_a_worker_that_always_dies_is_given_up(self, cluster, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("seedbed.generation.bulk.cluster.RETRIES", 0)
        with pytest.raises(ServerError, match="Ray gave up on a task: WorkerCrashedError"):
            generate_file_on_ray(prompts, tmp_path / "rows.jsonl", partial(opened, Troubled, "The seed 5 ", str(tmp_path / "m")), RECIPE)

    def test_ray_data_maps_batches_to_the_same_rows(self, cluster, prompts: Path, tmp_path: Path, want: str) -> None:
        data = pytest.importorskip("ray.data")
        source = data.from_items([{"prompt_index": place, "prompt": f"The seed {place} of"} for place in range(LINES)])
        sampler = Recipe(7, 2, RECIPE.sampler, 12, text=True)
        mapped = source.map_batches(BatchSampler, fn_constructor_args=(opened, sampler, PACE), batch_size=17, concurrency=2)
        rows = sorted(mapped.take_all(), key=lambda row: (row["prompt_index"], row["index"]))
        lines = [json.loads(line) for line in (tmp_path / "want.jsonl").read_text().splitlines()]

        assert [(r["prompt_index"], r["index"], list(r["token_ids"]), r["text"]) for r in rows] == [
            (r["prompt_index"], r["index"], r["token_ids"], r["text"]) for r in lines
        ]


@contextmanager
def answering(what: bytes | None):
    """The address of somebody who takes one connection and sends this, or nothing and waits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1000)
                if what is None:
                    connection.recv(1000)
                else:
                    connection.sendall(what)

        thread = Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


class TestWithoutRay:
    @pytest.fixture
    def ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As much of it as is asked before anybody connects."""
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
        monkeypatch.setattr("seedbed.generation.bulk.cluster.PATIENCE", 0.05)
        monkeypatch.delenv("RAY_USE_TLS", raising=False)

    @pytest.mark.parametrize(
        ("what", "says"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "somebody else listens there"),
            (b"", "somebody else listens there"),
            (None, "somebody else listens there"),
            (cluster_module.SETTINGS, None),
        ],
    )
    def test_who_listens_and_is_no_cluster_is_found_out_at_once(self, ray, what: bytes | None, says: str | None) -> None:
        for scheme in ("", "ray://"):
            with answering(what) as place, nullcontext() if says is None else pytest.raises(UsageError, match=says):
                cluster_module.require_cluster(scheme + place)

    def test_a_cluster_behind_tls_is_believed(self, ray, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_USE_TLS", "1")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            cluster_module.require_cluster(f"127.0.0.1:{listening.getsockname()[1]}")

    def test_whatever_ray_says_becomes_one_line(self, monkeypatch: pytest.MonkeyPatch, prompts: Path, tmp_path: Path) -> None:
        def init(**_: object) -> None:
            raise TimeoutError("The current node timed out during startup.\nThis could happen because")

        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
        with pytest.raises(ServerError, match=r"^Ray cannot start a cluster here: The current node timed out during startup\.$"):
            generate_file_on_ray(prompts, tmp_path / "rows.jsonl", opened, RECIPE)

    @pytest.mark.parametrize("address", ["nonsense", "", "127.0.0.1", ":6379", "host:port"])
    def test_what_is_no_address_is_told_what_one_is(self, ray, address: str) -> None:
        with pytest.raises(UsageError, match=f"is at HOST:PORT, or 'auto' .* or 'local' to start one; not '{address}'"):
            cluster_module.require_cluster(address)

    def test_where_nobody_listens_nothing_is_begun(self, ray, prompts: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no Ray cluster at 127.0.0.1:1: Connection refused"):
            generate_file_on_ray(prompts, tmp_path / "rows.jsonl", opened, RECIPE, address="127.0.0.1:1")

        assert list(tmp_path.iterdir()) == [prompts]

    def test_it_says_how_to_install_it(self, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(MissingExtra, match=r"pip install 'seedbed\[ray\]'"):
            generate_file_on_ray(prompts, tmp_path / "rows.jsonl", opened, RECIPE)

        assert not (tmp_path / "rows.jsonl.run.json").exists()

    def test_what_a_task_finished_before_an_error_ended_it_is_kept(self, prompts: Path, tmp_path: Path, monkeypatch) -> None:
        """And the run that goes on from it ends with the octets of one that was never interrupted."""
        monkeypatch.setitem(sys.modules, "ray", InProcess())
        want, out, recipe = tmp_path / "want.jsonl", tmp_path / "rows.jsonl", Recipe(7, max_new_tokens=2, text=False)
        prompts.write_text("".join(f"[{place}, 1]\n" for place in range(10)))
        generate_file_on_ray(prompts, want, opened, recipe, task_prompts=4)
        with pytest.raises(Overloaded, match=r"too much \[prompt 6, sequence 0, step 0\]"):
            generate_file_on_ray(prompts, out, partial(opened, Refusing, [6, 1]), recipe, task_prompts=4)
        had = out.read_bytes()
        report = generate_file_on_ray(prompts, out, opened, recipe, task_prompts=4)

        assert had == b"".join(want.read_bytes().splitlines(keepends=True)[:6])
        assert (report.before, report.prompts, out.read_bytes()) == (6, 4, want.read_bytes())

    def test_under_trio_it_says_to_take_a_thread(self, ray, prompts: Path, tmp_path: Path) -> None:
        async def main() -> None:
            for blocking in (
                lambda: generate_file_on_ray(prompts, tmp_path / "rows.jsonl", opened, RECIPE),
                lambda: BatchSampler(opened, RECIPE)({"prompt_index": [0], "prompt": ["a"]}),
            ):
                with pytest.raises(WrongRunner, match=r"blocks, and trio runs here already: .* await trio.to_thread.run_sync"):
                    blocking()

        trio.run(main)

        assert list(tmp_path.iterdir()) == [prompts]

    def test_what_tasks_are_given_and_give_back_can_be_pickled(self) -> None:
        for thing in (RECIPE, PACE, partial(connect, "http://model.invalid")):
            assert repr(pickle.loads(pickle.dumps(thing))) == repr(thing)
        for error in (Overloaded("a", status=503, retry_after=2.0), TruncatedRow("b", needed=3).at(prompt_index=1, index=2, step=3)):
            error.add_note("a note")
            twin = pickle.loads(pickle.dumps(error))
            assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
        assert isinstance(twin, TruncatedRow)
        assert issubclass(Overloaded, RequestRefused)

    def test_batches_give_the_same_rows_however_they_are_split(self) -> None:
        pytest.importorskip("pyarrow")
        sampler = BatchSampler(opened, Recipe(7, 2, RECIPE.sampler, 8, text=True))
        texts = [f"The seed {place}" for place in range(6)]
        whole = sampler({"prompt_index": list(range(6)), "prompt": texts, "id": list("abcdef")}).to_pylist()
        parts = [
            sampler({"prompt_index": [place], "token_ids": [list(text.encode())], "id": ["abcdef"[place]]}).to_pylist()
            for place, text in enumerate(texts)
        ]

        assert [row for part in reversed(parts) for row in reversed(part)][::-1] == whole

    def test_a_batch_that_lacks_something_is_refused(self) -> None:
        sampler = BatchSampler(opened, Recipe(7))
        for batch, says in (
            ({"prompt": ["a"]}, "needs the columns prompt_index, and prompt or token_ids; it has prompt"),
            ({"prompt_index": [3], "token_ids": [[999]]}, "prompt 3 cannot be continued: prompt 3 holds token id 999"),
            ({"prompt_index": [3], "token_ids": [[1.9, 2.2]]}, "prompt 3 holds 1.9 at place 0, which is no token id"),
            ({"prompt_index": [3], "token_ids": [None]}, "prompt 3 must be a list of token ids, not None"),
            ({"prompt_index": [0.5], "prompt": ["a"]}, "prompt_index must be an int, not float: 0.5"),
            ({"prompt_index": [-1], "prompt": ["a"]}, r"prompt_index must be in \[0, 2\*\*48\), not -1"),
            ({"prompt_index": [None], "prompt": ["a"]}, "prompt_index must be an int, not NoneType"),
            ({"prompt_index": 3, "prompt": ["a"]}, "the column prompt_index of a batch must hold a value a prompt, and is 3"),
            ({"prompt_index": [3, 4], "prompt": ["a"]}, "must be of one length, and have: prompt_index 2, prompt 1"),
            ({"prompt_index": [3], "prompt": ["a"], "id": []}, "have: prompt_index 1, prompt 1, id 0"),
        ):
            with pytest.raises(UsageError, match=says):
                sampler(batch)


def test_a_batch_without_pyarrow_says_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra) as caught:
        BatchSampler(opened, Recipe(7, max_new_tokens=1))({"prompt_index": [0], "prompt": ["a"]})

    assert str(caught.value) == "a table of rows, as Ray Data takes it, needs pyarrow: pip install 'seedbed[parquet]'"
