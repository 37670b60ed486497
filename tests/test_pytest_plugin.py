"""The pytest plugin, run on generated test files in a process of its own; outcomes are counted."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import seedbed.pytest_plugin.check
import seedbed.pytest_plugin.model  # noqa: F401 - a run in this process then need not load it
from seedbed import ReplayLLM, Sampler, generate, open_recording
from seedbed.protocols import PROTOCOLS
from seedbed.pytest_plugin.session import Session, Settings

TINY = Path(__file__).parents[1] / "fixtures" / "recordings" / "tiny-lm"
SEED = list(b"The seed")

PREAMBLE = """
import pytest
from seedbed import Sampler, TinyLM, generate
SEED = list(b"The seed")
RULES = dict(n=2, seed=7, sampler=Sampler(0.9, 10), max_new_tokens=12)
"""
SOURCE = """
import pytest
from seedbed import TinyLM

class Counting(TinyLM):
    asked = []
    async def next_token_logits(self, prev_token_ids):
        self.asked.append(tuple(prev_token_ids))
        return await super().next_token_logits(prev_token_ids)

@pytest.fixture
def seedbed_source(request):
    yield Counting()
    with open(request.config.rootpath / "asked", "a") as file:
        file.write("x" * len(Counting.asked))
    Counting.asked.clear()
"""


INI = "[pytest]\naddopts = -p no:asyncio -p no:anyio -p no:cacheprovider\ntrio_mode = true\nfilterwarnings = error\n"


class Project:
    """A directory with tests in it, as a user of the plugin has one."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.settings(INI)
        shutil.copytree(TINY, self.path / "tiny")

    def settings(self, text: str) -> None:
        (self.path / "pytest.ini").write_text(text)

    def tests(self, text: str, name: str = "test_it") -> None:
        (self.path / f"{name}.py").write_text(PREAMBLE + text)

    def with_source(self) -> None:
        """Tests can record the model in their own process."""
        self.pytester.makeconftest(SOURCE)

    def run(self, *arguments: str, apart: bool = False, **outcomes: int) -> str:
        """Run pytest, ``apart`` in a process of its own; assert on how many tests passed, failed, had errors; what it printed."""
        run = self.pytester.runpytest_subprocess if apart else self.pytester.runpytest_inprocess
        ran = run("-rN", "--tb=short", *arguments)
        text = "\n".join([*ran.outlines, *ran.errlines])
        assert any(" in " in line for line in ran.outlines[-1:]), text
        have = {name: count for name, count in ran.parseoutcomes().items() if not name.startswith(("second", "warning"))}
        assert have == outcomes, text
        return text

    @property
    def asked(self) -> int:
        """How many questions the source has been asked so far."""
        file = self.path / "asked"
        return len(file.read_text()) if file.exists() else 0

    @property
    def steps(self) -> int:
        """How many steps its recordings have."""
        return sum(len(open_recording(manifest.parent).steps) for manifest in self.path.rglob("recordings/**/manifest.json"))

    def files(self) -> dict[str, bytes]:
        return {str(f.relative_to(self.path)): f.read_bytes() for f in sorted(self.path.rglob("recordings/**/*")) if f.is_file()}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    # Bytecode is told from that of another text by size and whole seconds, and a project's tests change within one.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return Project(pytester)


def test_loading_it_imports_pytest_and_the_standard_library() -> None:
    code = (
        "import sys, seedbed.pytest_plugin; heavy = {'trio', 'httpx', 'numpy', 'respx', 'orjson', 'click', 'rich', 'httptools'};"
        "print(sorted(heavy & set(sys.modules)), 'pytest' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] True\n"


def test_a_run_that_uses_none_of_it_loads_nothing_and_says_nothing(project: Project) -> None:
    project.settings("[pytest]\naddopts = -p no:trio -p no:asyncio -p no:anyio -p no:hypothesispytest -p no:respx\n")
    (project.path / "test_it.py").write_text("import sys\ndef test_it():\n    assert not {'trio', 'httpx', 'numpy'} & set(sys.modules)\n")

    assert "seedbed recordings" not in project.run(passed=1, apart=True)


class TestReplay:
    def test_in_trio_tests_and_in_synchronous_ones(self, project: Project) -> None:
        want = trio.run(lambda: generate(SEED, ReplayLLM(TINY), 2, seed=7, sampler=Sampler(0.9, 10), max_new_tokens=12)).token_ids
        project.tests(
            """
@pytest.mark.seedbed("tiny")
async def test_trio(seedbed_llm):
    assert (await generate(SEED, seedbed_llm, **RULES)).token_ids == RESULTS

@pytest.mark.seedbed("tiny")
def test_sync(seedbed_llm):
    assert seedbed_llm.generate(SEED, **RULES).token_ids == RESULTS
    assert seedbed_llm.generate([SEED], **RULES).token_ids == RESULTS
    assert seedbed_llm.row(SEED).token_ids.tolist()[:2] == [32, 115]

@pytest.mark.seedbed("tiny")
async def test_wrong_runner(seedbed_llm):
    from seedbed.errors import WrongRunner
    with pytest.raises(WrongRunner, match="await generate"):
        seedbed_llm.generate(SEED)

@pytest.mark.seedbed("tiny", protocol="native")
async def test_native(seedbed_llm):
    assert (await generate(SEED, seedbed_llm, **RULES)).token_ids == RESULTS
    assert seedbed_llm.info.protocol == "native"

@pytest.mark.seedbed("tiny", protocol="vllm")
def test_vllm_which_tells_no_end_token(seedbed_llm):
    assert seedbed_llm.generate(SEED, **RULES).token_ids == RESULTS

@pytest.mark.seedbed("tiny", protocol="llama.cpp")
def test_llama(seedbed_llm):
    assert seedbed_llm.generate(SEED, **RULES).token_ids == RESULTS
    assert seedbed_llm.generate(SEED, **RULES).token_ids == RESULTS
""".replace("RESULTS", str(want))
        )
        project.run(passed=6)

    def test_a_source_may_be_a_function_that_opens_a_model(self, project: Project) -> None:
        """For servers that must be told more than a URL says."""
        project.tests("""
from contextlib import asynccontextmanager

@asynccontextmanager
async def opened():
    yield TinyLM()

@pytest.fixture
def seedbed_source():
    return opened

@pytest.mark.seedbed
def test_it(seedbed_llm, seedbed_check):
    seedbed_check(seedbed_llm.generate(SEED, **RULES))
""")
        project.run("--seedbed-record=once", passed=1)
        project.run(passed=1)

    def test_the_source_is_set_up_only_to_record(self, project: Project) -> None:
        """It may start a server, or load a model."""
        project.tests("""
@pytest.fixture
def seedbed_source():
    raise OSError("no model here")

@pytest.mark.seedbed(recording="tiny")
def test_it(seedbed_llm):
    assert len(seedbed_llm.generate(SEED, **RULES).token_ids) == 2
""")
        project.run(passed=1)
        assert "no model here" in project.run("--seedbed-record=new", errors=1)

    def test_claimed_by_two_async_plugins_it_says_which_setting_parts_them(self, project: Project) -> None:
        """pytest-asyncio's auto mode runs what pytest-trio has run already."""
        project.settings(
            INI.replace("-p no:asyncio", "").replace(
                "filterwarnings = error\n", "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
            )
        )
        project.tests("""
@pytest.mark.seedbed("tiny")
async def test_it(seedbed_llm):
    await generate(SEED, seedbed_llm, **RULES)

@pytest.mark.seedbed("tiny")
def test_sync(seedbed_llm):
    seedbed_llm.generate(SEED, **RULES)
""")
        assert "both take this test for theirs: set asyncio_mode = strict" in project.run(passed=1, errors=1)

    def test_an_async_test_that_nothing_runs_is_told_what_would(self, project: Project) -> None:
        project.settings(INI.replace("trio_mode = true\n", ""))
        project.tests("@pytest.mark.seedbed('tiny')\nasync def test_it(seedbed_llm):\n    pass\n")
        assert "set trio_mode = true in pytest's configuration" in project.run(failed=1)

        project.tests("@pytest.mark.seedbed('tiny')\n@pytest.mark.trio\nasync def test_it(seedbed_llm):\n    assert False\n")
        assert "trio_mode" not in project.run(failed=1)

    def test_without_any_async_plugin(self, project: Project) -> None:
        project.settings("[pytest]\naddopts = -p no:trio -p no:asyncio -p no:anyio\nfilterwarnings = error\n")
        project.tests("""
@pytest.mark.seedbed("tiny")
def test_sync(seedbed_llm):
    assert len(seedbed_llm.generate(SEED, **RULES).token_ids) == 2
""")
        project.run(passed=1)

    def test_under_a_virtual_clock_and_through_http(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny", protocol="native")
async def test_clock(seedbed_llm, autojump_clock):
    assert (await generate(SEED, seedbed_llm, timeout=5, **RULES)).sequences[0].finish_reason == "length"
""")
        project.run(passed=1)

    def test_a_miss_fails_the_test_and_says_what_to_type(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
async def test_miss(seedbed_llm):
    await generate(SEED, seedbed_llm, n=2, seed=8, sampler=Sampler(temperature=3.0), max_new_tokens=9)
""")
        text = project.run(failed=1)

        assert "was never asked for this prefix of" in text
        assert "pytest test_it.py::test_miss --seedbed-record=new --seedbed-url=URL" in text

    @pytest.mark.parametrize(
        ("marker", "says"),
        [
            ("", r"needs @pytest.mark.seedbed\('path/of/recording'\)"),
            (
                "@pytest.mark.seedbed('nowhere')",
                "no recording at .*nowhere.*pytest test_it.py::test_it --seedbed-record=new --seedbed-url=URL",
            ),
            ("@pytest.mark.seedbed", "no recording at .*recordings/test_it/it-[0-9a-f]{8}: .*--seedbed-record=new"),
            ("@pytest.mark.seedbed('tiny', 'tiny')", r"takes \(recording, \*, protocol, top_k, tier\), not"),
            ("@pytest.mark.seedbed(path='tiny')", r"takes \(recording, \*, protocol, top_k, tier\), not \('path',\)"),
            ("@pytest.mark.seedbed(3)", r"takes \(recording, \*, protocol, top_k, tier\), not \(3,\)"),
            ("@pytest.mark.seedbed('')", "takes the path of a recording, not ''; a server's URL is --seedbed-url"),
            ("@pytest.mark.seedbed('http://host:1')", "takes the path of a recording, not 'http://host:1'"),
            ("@pytest.mark.seedbed('tiny', tier='half')", "tier must be 'full' or 'top_k'"),
        ],
    )
    def test_a_marker_that_leads_nowhere_is_one_clear_line(self, project: Project, marker: str, says: str) -> None:
        project.tests(f"{marker}\ndef test_it(seedbed_llm):\n    pass\n")
        project.pytester.makeconftest("")

        text = project.run(errors=1)
        assert re.search(says, text)
        assert "another exception" not in text
        assert "direct cause" not in text

    @pytest.mark.parametrize("tier", ["top_k", "full"])
    def test_through_every_protocol_that_can_carry_its_rows_the_tokens_are_the_same(self, project: Project, tier: str) -> None:
        protocols = sorted(PROTOCOLS if tier == "full" else set(PROTOCOLS) - {"kserve-v2"})
        project.with_source()
        project.tests(
            "".join(
                f"""
@pytest.mark.seedbed("recordings/one", protocol={protocol!r}, tier={tier!r})
def test_{protocol.replace("-", "_").replace(".", "_")}(seedbed_llm):
    assert seedbed_llm.generate(SEED, n=1, seed=7, max_new_tokens=3).token_ids == [[44, 32, 111]]
"""
                for protocol in protocols
            )
        )
        project.run("--seedbed-record=once", passed=len(protocols))
        project.run("--seedbed-block-network", passed=len(protocols))

    def test_awaited_by_anything_but_trio_it_says_what_to_do(self, project: Project) -> None:
        project.tests("""
import asyncio
from seedbed.errors import WrongRunner

@pytest.mark.seedbed("tiny")
def test_it(seedbed_llm):
    with pytest.raises(WrongRunner, match="this runs under trio"):
        asyncio.run(seedbed_llm.next_token_logits(SEED))
""")
        project.run(passed=1)

    def test_an_unknown_protocol_fails_the_test(self, project: Project) -> None:
        project.tests("@pytest.mark.seedbed('tiny', protocol='gopher')\ndef test_it(seedbed_llm):\n    pass\n")

        assert "unknown protocol 'gopher'" in project.run(errors=1)


TWO_TESTS = """
@pytest.mark.seedbed
async def test_one(seedbed_llm, seedbed_check):
    seedbed_check(await generate(SEED, seedbed_llm, **RULES))

@pytest.mark.seedbed("recordings/shared", tier="full")
def test_two(seedbed_llm, seedbed_check):
    seedbed_check(seedbed_llm.generate(SEED, **RULES))

@pytest.mark.seedbed("recordings/shared")
async def test_three(seedbed_llm, seedbed_check):
    seedbed_check(await generate(list(b"In spring"), seedbed_llm, **RULES))
"""


class TestModes:
    def test_none_never_asks(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run(errors=3)

        assert (project.asked, project.files()) == (0, {})

    @pytest.mark.parametrize("mode", ["once", "new", "all", "rewrite"])
    def test_every_other_mode_records_what_is_not_there_and_then_none_is_enough(self, project: Project, mode: str) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run(f"--seedbed-record={mode}", passed=3)
        asked, files = project.asked, project.files()
        project.run("--seedbed-block-network", passed=3)

        assert asked > 20
        assert (project.asked, project.files()) == (asked, files)
        assert {"recordings/shared/logits-00001.safetensors", "recordings/shared/manifest.json"} < set(files)
        assert [name.split("/")[2][:4] for name in files if "test_it" in name] == ["one-"] * 3
        assert not list(project.path.rglob(".*.new"))
        recording = open_recording(project.path / "recordings" / "shared")
        assert (recording.tier, recording.is_sealed, len(recording.runs)) == ("full", True, 2)

    def test_once_keeps_no_recording_that_no_test_asked_anything(self, project: Project) -> None:
        test = "\n@pytest.mark.seedbed\ndef test_it(seedbed_llm):\n    {}seedbed_llm.generate(SEED, **RULES)\n"
        project.with_source()
        project.tests(test.format("raise ValueError\n    "))
        assert "no test asked it anything" in project.run("--seedbed-record=once", failed=1)
        assert not project.files()
        project.tests(test.format(""), "test_it2")
        (project.path / "test_it.py").unlink()
        project.run("--seedbed-record=once", passed=1)
        project.run(passed=1)

    def test_once_adds_nothing_to_what_is_there(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=once", passed=3)
        before = project.asked, project.files()
        project.tests(TWO_TESTS.replace("n=2", "n=3") + "\nRULES['n'] = 3\n")
        project.run("--seedbed-record=once", failed=3)

        assert (project.asked, project.files()) == before

    def test_new_asks_for_just_what_is_missing(self, project: Project) -> None:
        """Counterfactual replay: another n, seed, sampler and stop rule over the same recording."""
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        known, asked = project.steps, project.asked
        project.run("--seedbed-record=new", passed=3)
        assert project.asked == asked
        project.tests(TWO_TESTS + "\nRULES |= dict(n=3, sampler=Sampler(top_k=5), stop_token_ids=[46])\n")
        text = project.run("--seedbed-record=new", passed=3)

        assert project.asked - asked == project.steps - known > 0
        assert "accepted: recordings/shared: two-" in text
        project.run(passed=3)

    def test_a_tokenizer_is_recorded_too(self, project: Project) -> None:
        project.with_source()
        project.tests("""
@pytest.mark.seedbed
async def test_it(seedbed_llm):
    assert await seedbed_llm.tokenize("The seed") == SEED
    assert await seedbed_llm.detokenize(SEED) == "The seed"
""")
        project.run("--seedbed-record=new", passed=1)
        project.run("--seedbed-block-network", passed=1)
        file = project.path / "test_it.py"
        file.write_text(file.read_text().replace('tokenize("The seed")', 'tokenize("Other")'))
        assert "to add it: `pytest test_it.py::test_it --seedbed-record=new" in project.run(failed=1)

    def test_new_without_a_server_works_until_something_is_missing(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
async def test_known(seedbed_llm, seedbed_check):
    seedbed_check(await generate(SEED, seedbed_llm, **RULES))

@pytest.mark.seedbed("tiny")
async def test_unknown(seedbed_llm):
    await seedbed_llm.next_token_logits([1, 2, 3])
""")
        assert "--seedbed-url=URL" in project.run("--seedbed-record=new", passed=1, failed=1)
        project.run("-k", "test_known", passed=1, deselected=1)

    def test_a_server_is_needed_to_begin(self, project: Project) -> None:
        project.tests(TWO_TESTS)

        assert "--seedbed-record=rewrite needs a server to ask: give --seedbed-url=URL" in project.run("--seedbed-record=rewrite", errors=3)

    @pytest.mark.parametrize("mode", ["new", "all", "rewrite"])
    def test_a_directory_of_other_things_is_never_replaced(self, project: Project, mode: str) -> None:
        """A marker that names the project itself, or its tests, must not cost anybody the project."""
        project.with_source()
        (project.path / "data").mkdir()
        (project.path / "data" / "keep.txt").write_text("years of work")
        for name in ("data", "."):
            project.tests(TWO_TESTS.replace("recordings/shared", name))
            assert "holds files that are no recording" in project.run(f"--seedbed-record={mode}", passed=1, errors=2)

        assert (project.path / "data" / "keep.txt").read_text() == "years of work"
        assert list(project.path.glob("test_*.py"))

    def test_all_and_rewrite_of_an_unchanged_model_change_nothing(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        before, asked = project.files(), project.asked
        for mode in ("all", "rewrite"):
            text = project.run(f"--seedbed-record={mode}", passed=3)
            assert "0 changed, 0 added, 0 dropped" in text
            assert project.files() == before
        assert project.asked > 2 * asked

    def test_all_keeps_and_rewrite_drops_what_no_test_asks_for(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        path = project.path / "recordings" / "shared"
        before = len(open_recording(path).steps)
        project.tests(TWO_TESTS + "\nRULES['max_new_tokens'] = 3\n")
        project.run("--seedbed-record=all", passed=3)
        kept = len(open_recording(path).steps)
        text = project.run("--seedbed-record=rewrite", passed=3)

        assert kept == before
        assert 2 < len(open_recording(path).steps) < 12
        assert "dropped" in text

    def test_a_failed_test_leaves_the_old_recording_in_its_place(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        before = project.files()
        project.tests(TWO_TESTS + "    assert False\n\nRULES['max_new_tokens'] = 3\n")
        text = project.run("--seedbed-record=rewrite", "-k", "two or three", passed=1, failed=1, deselected=1)

        assert "not replaced: recordings/shared, since test_it.py::test_three failed" in text
        assert project.files() == before
        assert not list(project.path.rglob(".*.new"))

    def test_an_interrupted_session_drops_nothing(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        before = project.files()
        check = "seedbed_check(seedbed_llm.generate(SEED, **RULES))"
        project.tests(TWO_TESTS.replace(check, f"{check}\n    raise KeyboardInterrupt"))
        ran = project.pytester.runpytest_inprocess("--seedbed-record=rewrite", no_reraise_ctrlc=True)
        text = "\n".join([*ran.outlines, *ran.errlines])

        assert "not replaced: recordings/shared, since test_it.py::test_two failed" in text
        assert "INTERNALERROR" not in text
        assert project.files() == before
        assert not list(project.path.rglob(".*.new"))

    def test_rewrite_drops_nothing_that_a_test_needs_which_did_not_run(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        before = project.files()
        text = project.run("--seedbed-record=rewrite", "-k", "two", passed=1, deselected=2)

        assert "not replaced: recordings/shared, since test_it.py::test_three samples from it too and has not run" in text
        assert project.files() == before

    def test_another_model_is_never_mixed_in(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        conftest = project.path / "conftest.py"
        conftest.write_text(conftest.read_text().replace("yield Counting()", "yield Counting(order=2)"))
        project.tests(TWO_TESTS + "\nRULES['seed'] = 9\n")

        assert "give another path" in project.run("--seedbed-record=new", failed=3)
        assert "start over with --seedbed-record=rewrite" in project.run("--seedbed-record=all", errors=3)
        project.run("--seedbed-record=rewrite", passed=3)
        project.run(passed=3)

    def test_a_server_behind_a_url_is_recorded(self, project: Project) -> None:
        project.tests(TWO_TESTS)
        server = subprocess.Popen(
            [sys.executable, "-c", "from seedbed.cli import run; run()", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            url = server.stdout.readline().split(" at ")[1].split(",")[0]
            local = url.replace("127.0.0.1", "localhost")
            project.run("--seedbed-record=new", f"--seedbed-url={local}", "--seedbed-block-network", passed=3)  # it alone may be asked
        finally:
            server.kill()
            server.communicate()
        project.run("--seedbed-block-network", passed=3)

        assert all(b"localhost" not in data for data in project.files().values())

    def test_a_mode_that_does_not_exist_is_refused(self, project: Project) -> None:
        ran = project.pytester.runpytest_inprocess("--seedbed-record=sometimes")

        assert ran.ret == pytest.ExitCode.USAGE_ERROR
        assert "invalid choice" in "\n".join(ran.errlines)


class TestCheck:
    def test_a_failure_prints_want_have_prefix_and_both_commands(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        project.tests(TWO_TESTS + "\nRULES['seed'] = 4\n")
        project.with_source()
        project.run("--seedbed-record=none", failed=3)
        project.tests("""
@pytest.mark.seedbed("tiny")
def test_it(seedbed_llm, seedbed_check):
    result = seedbed_llm.generate(SEED, **RULES).token_ids
    result[1][5] += CHANGE
    seedbed_check(result)
CHANGE = 0
""")
        project.run("--seedbed-record=new", passed=1)
        file = project.path / "test_it.py"
        file.write_text(file.read_text().replace("CHANGE = 0", "CHANGE = 1"))
        text = project.run("-k", "test_it", failed=1)

        for pattern in (
            r"sequence 1 parts from what was recorded at step 5",
            r"want: \d+ \d+ \d+ \d+ \d+ \[\d+\] ",
            r"have: \d+ \d+ \d+ \d+ \d+ \[\d+\] ",
            r"to look closer:       seedbed inspect .*/tiny",
            r"to accept the change: pytest test_it.py::test_it --seedbed-record=new",
        ):
            assert re.search(pattern, text), pattern

    def test_nothing_recorded_yet_is_a_failure_with_the_command(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
def test_it(seedbed_check):
    seedbed_check([1, 2, 3], "mine")
""")
        text = project.run(failed=1)

        assert "nothing is recorded yet for this check (it-" in text
        assert "to record it:      pytest test_it.py::test_it --seedbed-record=new" in text

    def test_several_checks_of_one_test_do_not_meet(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
@pytest.mark.parametrize("shift", [0, 1])
def test_it(seedbed_check, shift):
    seedbed_check([1, 2, 3 + shift])
    seedbed_check([[1, 2, 4 + shift], []])
    seedbed_check([], "empty")
""")
        project.run("--seedbed-record=new", passed=2)
        project.run(passed=2)

        assert len(open_recording(project.path / "tiny").runs) == 7  # one was there

    def test_what_is_no_token_ids_is_said(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
@pytest.mark.parametrize("have", [3, "abc", [1.5], [[1], None]])
def test_it(seedbed_check, have):
    with pytest.raises(ValueError, match="seedbed_check takes a GenerationResult, the token ids of one sequence"):
        seedbed_check(have)
""")
        project.run(passed=4)

    def test_rows_are_compared_bit_for_bit_or_within_a_tolerance(self, project: Project) -> None:
        project.tests("""
from seedbed import TopLogprobs
from seedbed.llm import LLM

def changed(row, by):
    values = row.logprobs.copy()
    values[3] -= by
    return TopLogprobs(row.token_ids, values, row.vocab_size)

@pytest.mark.seedbed("tiny")
def test_same(seedbed_llm, seedbed_check):
    row = seedbed_llm.row(SEED)
    seedbed_check.row(SEED, row)
    seedbed_check.row(SEED, changed(row, 1e-3), atol=2e-3)

@pytest.mark.seedbed("tiny")
def test_changed(seedbed_llm, seedbed_check):
    seedbed_check.row(SEED, changed(seedbed_llm.row(SEED), 1e-3))

@pytest.mark.seedbed("tiny")
def test_other_tokens(seedbed_llm, seedbed_check):
    seedbed_check.row(SEED, TopLogprobs([5], [-1.0], 257), atol=9)

@pytest.mark.seedbed("tiny")
def test_other_vocabulary(seedbed_check):
    seedbed_check.row(SEED, [0.0, 1.0])

@pytest.mark.seedbed("tiny")
def test_not_there(seedbed_check):
    seedbed_check.row([1], [0.0, 1.0])
""")
        text = project.run(passed=1, failed=4)

        for line in (
            "the row after 8 tokens is not the one recorded in tiny (step 2)",
            "want: token 98 has probability 0.01026",
            "have: token 98 has probability 0.01025, the largest difference",
            "have: token 32 is not listed there, the largest difference",
            "the row is for a vocabulary of 2 tokens, the recorded one for one of 257",
            "no row is recorded after [1]",
            "prefix: 84,104,101,32,115,101,101,100 (8 tokens)",
        ):
            assert line in text, line


class TestNames:
    def test_any_parametrisation_gives_a_short_name_that_stays(self, project: Project) -> None:
        project.with_source()
        project.tests("""
CASES = ["a/b\\\\c:*?", "ä" * 500, "", " ", "..", "x" * 300, 3.5, None, b"\\x00\\xff", "CON", "A", "a"]

class TestGroup:
    @pytest.mark.seedbed
    @pytest.mark.parametrize("case", CASES)
    def test_in_a_class(self, seedbed_llm, case):
        seedbed_llm.row(SEED)
""")
        project.run("--seedbed-record=new", passed=12)
        names = sorted(path.name for path in (project.path / "recordings" / "test_it").iterdir())
        project.run(passed=12)
        project.run("-p", "no:randomly", "--rootdir", str(project.path), str(project.path / "test_it.py"), passed=12)

        assert len({name.lower() for name in names}) == 12
        assert "in-a-class-3-5-b89f223d" in names  # of whoever has recordings already
        assert all(len(name) <= 49 and name.isascii() and "/" not in name for name in names)

    def test_the_directory_is_a_setting(self, project: Project) -> None:
        project.with_source()
        project.settings(INI + "seedbed_recordings = kept/here\n")
        project.tests("@pytest.mark.seedbed\ndef test_one(seedbed_llm):\n    seedbed_llm.row(SEED)\n")
        project.run("--seedbed-record=once", passed=1)

        assert [path.name[:4] for path in (project.path / "kept" / "here" / "test_it").iterdir()] == ["one-"]


class TestReport:
    def test_what_no_test_refers_to_is_listed(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.run("--seedbed-record=new", passed=3)
        assert "unused" not in project.run(passed=3)
        project.tests(TWO_TESTS.replace("test_one", "test_renamed"))
        text = project.run("-k", "two", passed=1, deselected=2)
        part = project.run("test_it.py::test_two", passed=1)

        assert re.search(r"unused: recordings/test_it/one-[0-9a-f]{8}: no test refers to it", text)
        assert "unused" not in part

    def test_recordings_of_a_module_that_is_gone_are_listed_when_the_whole_suite_is_run(self, project: Project) -> None:
        project.with_source()
        project.tests(TWO_TESTS)
        project.tests(TWO_TESTS, "test_other")
        project.run("--seedbed-record=new", passed=6)
        (project.path / "test_other.py").unlink()
        whole, part = project.run(passed=3), project.run("test_it.py", passed=3)

        assert re.search(r"unused: recordings/test_other/one-[0-9a-f]{8}: no test refers to it", whole)
        assert "unused: recordings/shared" not in whole
        assert "unused" not in part

    def test_what_was_opened_for_nothing_is_listed_and_more_when_asked(self, project: Project) -> None:
        project.tests("""
@pytest.mark.seedbed("tiny")
def test_it(seedbed_llm):
    pass
""")
        assert "unused: tiny: a test opened it and asked for nothing" in project.run(passed=1)
        project.tests('@pytest.mark.seedbed("tiny")\ndef test_it(seedbed_llm):\n    seedbed_llm.row(SEED)\n')
        assert "seedbed recordings" not in project.run(passed=1)
        assert "tiny: 1 of 462 steps were asked for" in project.run("-v", passed=1)

    def test_what_workers_used_is_added_up(self, tmp_path: Path) -> None:
        """As xdist carries it, through a format that knows lists and no sets; a worker that crashed told nothing."""
        workers = [Session("none", None, tmp_path) for _ in range(2)]
        a, b = (Settings(tmp_path / name, "test_it", "it") for name in "ab")
        workers[0].used(a, {1, 2}, 9)
        workers[1].used(a, {2, 3}, 9)
        workers[1].used(b, set(), 4)
        controller = Session("none", None, tmp_path)
        for output in [*(json.loads(json.dumps(worker.to_worker_output())) for worker in workers), None]:
            controller.add_worker_output(output)

        assert controller.report(whole="suite", verbose=True) == [
            "a: 3 of 9 steps were asked for",
            "unused: b: a test opened it and asked for nothing",
        ]

    def test_recording_from_several_processes_is_refused(self, project: Project) -> None:
        ran = project.pytester.runpytest_inprocess("-n2", "--seedbed-record=new")

        assert "run it in one process, with -n 0" in "\n".join(ran.errlines)

    def test_a_url_that_is_none_is_refused_before_any_test_runs(self, project: Project) -> None:
        ran = project.pytester.runpytest_inprocess("--seedbed-url=")

        assert ran.ret == pytest.ExitCode.USAGE_ERROR
        assert "--seedbed-url must be a URL such as http://host:port, not ''" in "\n".join(ran.errlines)


class TestNetwork:
    def test_every_way_out_is_closed_and_open_again_afterwards(self, project: Project) -> None:
        project.tests("""
import socket, trio
from seedbed import connect
from seedbed.errors import NetworkBlocked

def test_plain():
    for attempt in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        lambda: socket.getaddrinfo("example.invalid", 80),
        lambda: socket.gethostbyname("example.invalid"),
        lambda: datagram.sendto(b"x", ("192.0.2.1", 53)),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            with pytest.raises(NetworkBlocked, match="a test tried to reach .*--seedbed-record=new"):
                attempt()

async def test_trio():
    for url in ("http://192.0.2.1", "http://example.invalid", "http://127.0.0.1:9"):
        with pytest.RaisesGroup(NetworkBlocked, allow_unwrapped=True, flatten_subgroups=True):  # trio groups what is no OSError
            async with connect(url):
                pass

def test_local_sockets_pass():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
    assert socket.getaddrinfo("127.0.0.1", 80)
""")
        project.run("--seedbed-block-network", passed=3)

        assert "connect" not in vars(socket.socket)
        assert socket.getaddrinfo.__module__ == "socket"

    def test_a_host_that_is_named_passes(self, project: Project) -> None:
        project.tests("""
import socket
from seedbed import connect, serve

async def test_it():
    async with serve(TinyLM()) as server, connect(server.url) as model:
        assert model.info.model == "tiny-lm"
""")
        project.run("--seedbed-block-network", failed=1)
        for host in ("127.0.0.1", "localhost"):
            project.settings(INI + f"seedbed_allowed_hosts =\n    {host}\n")
            project.tests(f"""
from seedbed import connect, serve

async def test_it():
    async with serve(TinyLM()) as server, connect(server.url.replace("127.0.0.1", "{host}")) as model:
        assert model.info.model == "tiny-lm"
""")
            project.run("--seedbed-block-network", passed=1)
