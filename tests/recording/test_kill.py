"""kill -9 at any moment leaves a valid recording; the same command run again ends like the undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from tests.recording.samples import content

from seedbed import HashLM, RecordingLLM, Sampler, generate, open_recording
from seedbed.errors import RecordingNotFound
from seedbed.recording.format import MANIFEST, STEPS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")

RUNS = 12
CHANGING = ("write", "fsync", "ftruncate", "replace")


class Model(HashLM):
    """With a tokenizer, whose answers are recorded too."""

    async def tokenize(self, text: str) -> list[int]:
        await trio.lowlevel.checkpoint()
        return list(text.encode())


async def command(path: Path, tier: str) -> None:
    """What is killed: sampling while recording, then repeats, then the seal."""
    async with RecordingLLM(Model(2000), path, tier, top_k=8, repeats=2) as recorded:
        await recorded.tokenize("\x01\x02")
        result = await generate([1, 2], recorded, 6, seed=7, sampler=Sampler(top_k=8), max_new_tokens=8)
        recorded.note(result)


def changes_of(monkeypatch: pytest.MonkeyPatch, path: Path, tier: str) -> int:
    """Run the command undisturbed; at how many moments it can be killed."""
    changes: list[str] = []

    def counted(name: str):
        real = getattr(os, name)
        return lambda *arguments, **more: (changes.append(name), real(*arguments, **more))[1]

    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, counted(name))
        trio.run(command, path, tier)
    return len(changes)


def die_at(moment: int, chance: random.Random) -> None:
    """Kill this process at its n-th call that changes a file: before it, after it, or with half of what it wrote."""
    left = [moment]

    def dying(name: str):
        real = getattr(os, name)

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

    for name in CHANGING:
        setattr(os, name, dying(name))


def is_killed(moment: int, chance: random.Random, path: Path, tier: str) -> bool:
    """Run the command in a child that dies at a moment; whether it came to that. A fork, since an import takes longer than the command."""
    child = os.fork()
    if not child:
        try:
            die_at(moment, chance)
            trio.run(command, path, tier)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("tier", ["top_k", "full"])
@pytest.mark.parametrize("runs", [RUNS, pytest.param(120, marks=pytest.mark.thorough)])
def test_killed_at_any_moment_it_is_resumed_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str, runs: int
) -> None:
    moments = changes_of(monkeypatch, tmp_path / "undisturbed", tier)
    want = open_recording(tmp_path / "undisturbed")
    all_of_it = content(want)
    chance, kills, partial = random.Random(tier), 0, set()
    early = list(range(1, 7))

    for number in range(runs):
        path = tmp_path / str(number)
        for _ in range(3):  # the one that resumes is killed too
            moment = early.pop() if early else chance.randint(1, moments)
            if not is_killed(moment, chance, path, tier):
                break
            kills += 1
            try:
                recording = open_recording(path)
            except RecordingNotFound:
                assert not (path / MANIFEST).exists()
                continue
            partial.add(len(recording.steps))
            recording.verify()
            assert all(set(hashes) <= set(all_of_it[prefix]) for prefix, hashes in content(recording).items())
        if not ((path / MANIFEST).exists() and open_recording(path).is_sealed):
            trio.run(command, path, tier)
        recording = open_recording(path)
        assert recording.is_sealed
        assert content(recording) == all_of_it
        assert (recording.runs, recording.texts) == (want.runs, want.texts)
        assert {file.name for file in path.iterdir()} == {file.name for file in (tmp_path / "undisturbed").iterdir()}

    assert kills > runs
    assert len(partial) > RUNS // 2


@pytest.mark.thorough
def test_fifty_kills_of_the_command_itself(tmp_path: Path) -> None:
    """In the middle of whatever it does, at random lengths of the file it writes, against a server in another process."""
    seedbed = [sys.executable, "-u", "-m", "seedbed"]
    server = subprocess.Popen([*seedbed, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    chance = random.Random(7)
    try:
        url = server.stdout.readline().split(" at ")[1].split(",")[0]
        words = ["--prompt", "The seed", "-n", "8", "--seed", "7", "--repeats", "2", "--keep", "all"]
        undisturbed, path = tmp_path / "undisturbed", tmp_path / "killed"
        subprocess.run([*seedbed, "record", url, undisturbed, *words], check=True, capture_output=True)
        want = open_recording(undisturbed)
        size = (undisturbed / STEPS).stat().st_size
        for kill in range(50):
            fatal = size * kill // 50 + chance.randint(1, size // 50)
            process = subprocess.Popen([*seedbed, "record", url, path, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not ((path / STEPS).exists() and (path / STEPS).stat().st_size >= fatal):
                pass
            assert process.poll() is None
            process.kill()
            process.wait()
            open_recording(path).verify()
        subprocess.run([*seedbed, "record", url, path, *words], check=True, capture_output=True)
    finally:
        server.kill()
        server.communicate()
    have = open_recording(path)

    assert have.is_sealed
    assert content(have) == content(want)
    assert have.runs == want.runs
