"""Every block of the README is run, and its output is what the README says."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from seedbed.cli import main
from seedbed.server import TinyLM, serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = [(code, BLOCKS[i + 1][1]) for i, (kind, code) in enumerate(BLOCKS[:-1]) if kind == "python" and BLOCKS[i + 1][0] == "text"]
TESTS = [code for kind, code in BLOCKS if kind == "python" and "def test_" in code]
TRANSCRIPTS = [code for kind, code in BLOCKS if kind == "console"]


def transcript_commands() -> list[tuple[str, str]]:
    found = []
    for transcript in TRANSCRIPTS:
        for part in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("seedbed") and not command.endswith("&"):
                found.append((command, output))
    return found


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert (len(PROGRAMS), len(TESTS), len(transcript_commands())) == (4, 1, 3)
    assert kinds.count("python") == len(PROGRAMS) + len(TESTS)
    assert set(kinds) == {"console", "python", "text", "toml"}


@pytest.mark.parametrize(("code", "output"), PROGRAMS, ids=["sample", "open_generation", "record", "check"])
def test_a_program_prints_what_the_readme_says(code: str, output: str) -> None:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})

    assert printed.getvalue() == output


@pytest.mark.parametrize(("command", "output"), transcript_commands(), ids=["generate", "check", "doctor"])
async def test_a_command_prints_what_the_readme_says(command: str, output: str) -> None:
    async with serve(TinyLM()) as server:
        arguments = [word.replace("http://127.0.0.1:8017", server.url) for word in shlex.split(command)[1:]]
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, arguments))

    assert result.stdout.replace(server.url, "http://127.0.0.1:8017") == output


def test_the_test_in_the_readme_passes(pytester: pytest.Pytester) -> None:
    """With the settings the README gives, and no others."""
    pytester.makepyfile(TESTS[0])
    (pytester.path / "pyproject.toml").write_text(next(code for kind, code in BLOCKS if kind == "toml"))
    (pytester.path / "fixtures").symlink_to(ROOT / "fixtures")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=1)
