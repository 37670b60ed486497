"""A page of the documentation as a program: its blocks in order, in a directory of their own.

What a block is, its first line says::

    ```python            a program; the ``text`` block behind it is what it prints, and without one it prints nothing
    ```python            a file, if the first line is a comment with its name: # test_garden.py
    ```toml, json        a file likewise
    ```yaml              a workflow file: its commands are run, too, and must not fail
    ```console           commands behind "$ ", each with what it prints
    ```sh                commands for somebody else's server; read, not run

In what is printed, a line of three dots stands for any lines, and three dots within a line for anything in that line. The server the
commands talk to is ``seedbed serve``, at its usual address.

``make pages`` writes what is printed now into the pages.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING

import trio

from seedbed import TinyLM
from seedbed.cli import run
from seedbed.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seedbed import LLM

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "src" / "seedbed" / "guide"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md"))]
KINDS = {"python", "text", "console", "sh", "toml", "yaml", "json"}
ADDRESS = "http://127.0.0.1:8017"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ((?:\.?[\w-]+/)*[\w.-]+\.(?:py|toml|yml|json))\n")
# What needs a registry, or takes longer than a test may: pages show these without what they print.
_SHOWN_ONLY = ("pip ", "make ", "seedbed serve &", "seedbed selftest")

# Without the other plugins of this environment, which a reader has not and which take a second to load.
_PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_trio.plugin", "-p", "seedbed.pytest_plugin"]


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        kind: the word behind the fence.
        text: what is in it.
        line: where it begins in its page.
    """

    kind: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file it is, or None."""
        named = _FILE.match(self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Of a console: every command, as it stands there, and what it prints. A backslash at a line's end goes on in the next."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)
        assert parts[0] == "", f"line {self.line}: a console begins with a command"
        return [_split_command(part) for part in parts[1:]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the page says that is printed, what is, and where it says so."""

    want: str
    have: str
    where: str

    @property
    def is_as_said(self) -> bool:
        """Whether they agree, dots standing for anything."""
        lines = self.want.splitlines(keepends=True)
        pattern = ("(?:.*\n)*" if line == "...\n" else re.escape(line).replace(r"\.\.\.", ".*") for line in lines)
        return re.fullmatch("".join(pattern), self.have) is not None


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(text)]


def run_page(page: Path, directory: Path, url: str) -> Iterator[Outcome]:
    """Run every block of a page in ``directory``, which is the working directory; ``url`` is where TinyLM is served."""
    (directory / "fixtures").symlink_to(ROOT / "fixtures")
    blocks = blocks_of(page)
    terminal = Terminal(url)
    for block, following in zip_longest(blocks, blocks[1:]):
        where = f"{page.name}:{block.line}"
        if block.file is not None:
            target = directory / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, "utf-8")
            for command in re.findall(r"\brun: (.*)", block.text) if block.kind == "yaml" else []:
                yield Outcome("", terminal.fails(command), f"{where}: {command}")
        elif block.kind == "python":
            yield Outcome(following.text if following and following.kind == "text" else "", _printed_by(block.text, where), where)
        elif block.kind == "console":
            for command, output in block.commands:
                yield Outcome(output, terminal.run(command), f"{where}: {command}")


class Terminal:
    """Runs the commands of a page, one after the other."""

    def __init__(self, url: str) -> None:
        self._url, self._exit_code = url, 0

    def run(self, command: str) -> str:
        """What it prints."""
        if command.startswith(_SHOWN_ONLY):
            return ""
        if command == "echo $?":
            return f"{self._exit_code}\n"
        program, *arguments = (word.replace(ADDRESS, self._url) for word in shlex.split(command.replace("\\\n", ""), comments=True))
        if program == "seedbed":
            self._exit_code, printed = _run_seedbed(arguments)
        else:
            assert program in ("python", "pytest"), f"nobody runs '{command}'"
            module = _PYTEST if program == "pytest" else []
            ran = subprocess.run(
                [sys.executable, *module, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                # Without bytecode, which is told from that of another text by whole seconds: pages change their files within one.
                env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
            self._exit_code, printed = ran.returncode, ran.stdout
        return re.sub("[ \t]+$", "", printed.replace(self._url, ADDRESS), flags=re.MULTILINE)

    def fails(self, command: str) -> str:
        """What a command of a workflow says if it fails, else nothing."""
        if command.startswith(_SHOWN_ONLY):
            return ""
        env = os.environ | {"MODEL_URL": self._url, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        ran = subprocess.run(["bash", "-eo", "pipefail", "-c", command], env=env, capture_output=True, text=True, check=False)
        return ran.stdout + ran.stderr if ran.returncode else ""


@contextmanager
def serving(llm: LLM) -> Iterator[str]:
    """The URL of a server that runs in a thread while the block runs."""
    started: Queue[tuple[str, trio.lowlevel.TrioToken, trio.CancelScope]] = Queue()

    async def run() -> None:
        async with serve(llm) as server:
            with trio.CancelScope() as scope:
                started.put((server.url, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    url, token, scope = started.get(timeout=30)
    try:
        yield url
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


def rewrite(page: Path, url: str) -> int:
    """Write what is printed now into a page; returns in how many places it said something else."""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        others = [outcome for outcome in run_page(page, Path(directory), url) if not outcome.is_as_said]
        os.chdir(ROOT)
    lines = page.read_text("utf-8").splitlines(keepends=True)
    for outcome in reversed(others):
        start = int(outcome.where.split(":")[1])
        command = outcome.where.split(": ", 1)[1] if ": " in outcome.where else None
        begins = f"$ {command}\n" if command else "```text\n"
        text = "".join(lines[start - 1 :])
        at = text.index(begins) + len(begins)
        assert text.startswith(outcome.want, at), outcome.where
        lines[start - 1 :] = [text[:at] + outcome.have + text[at + len(outcome.want) :]]
    page.write_text("".join(lines), "utf-8")
    return len(others)


def _split_command(part: str) -> tuple[str, str]:
    command, rest = re.match(r"((?:.*\\\n)*.*)\n((?:.*\n)*)", part).groups()  # type: ignore[union-attr]
    return command, rest


def _printed_by(code: str, where: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, where, "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def _run_seedbed(arguments: list[str]) -> tuple[int, str]:
    """Exit code, and standard output and error as a terminal shows them; in this process, since starting one takes half a second."""
    printed, before = io.StringIO(), sys.argv
    sys.argv = ["seedbed", *arguments]
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            run()
    except SystemExit as ended:
        return int(ended.code or 0), printed.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("run() returned")


if __name__ == "__main__":
    os.environ["COLUMNS"] = "120"
    picked = sys.argv[1:]
    if unknown := set(picked) - {path.stem for path in PAGES}:
        sys.exit(f"no page is called {', '.join(sorted(unknown))}; there are {', '.join(path.stem for path in PAGES)}")
    with serving(TinyLM()) as served:
        for path in PAGES:
            if not picked or path.stem in picked:
                print(f"{path.relative_to(ROOT)}: {rewrite(path, served)} changed")
