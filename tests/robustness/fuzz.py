"""``make fuzz MINUTES=10``: octets that were damaged at random, into everything that reads octets from outside.

What may come out is a value or one of our own errors; anything else is a crash, and its input is kept in ``build/fuzz``. The corpus are
the captured answers of real servers, answers of our own server, and two small recordings. With atheris installed, its coverage guides
what is tried (it ships for few Pythons; ``pip install atheris``); without it, the damage is drawn from a seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from seedbed import ModelInfo, open_recording
from seedbed.errors import SeedbedError
from seedbed.http.message import ChunkedBody, Malformed, RequestHead, ResponseHead, TooLong, end_of_head
from seedbed.protocols import PROTOCOLS
from seedbed.protocols.exchange import Ask, HttpRequest, HttpResponse
from seedbed.protocols.refusal import refusal
from seedbed.recording import lines
from tests.protocols import wire
from tests.recording.samples import TIERS, write
from tests.robustness import minutes_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seedbed.protocols.base import Protocol

OUT = Path("build") / "fuzz"
INFO = ModelInfo(model="m", fingerprint="f", vocab_size=12, eos_token_ids=(3,), context_length=64)
LLM = wire.FixedLLM(np.linspace(4, -4, 12, dtype=np.float32), INFO)
ASKS = (Ask((1, 2), None), Ask((1, 2), 3), Ask((1, 2), 3, ahead=3))
ONE_RUN = 200  # damaged inputs of one target between two looks at the clock
VALUES = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"9007199254740992",
    b"18446744073709551615",
    b"0.5",
    b"1e300",
    b'""',
    b'"token_id:5"',
    b"[]",
    b"{}",
    b"[[]]",
    b"[null]",
]
HARD = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"NaN",
    b"1e999",
    b"-0",
    b"[" * 500,
    b'{"":' * 200,
    b"18446744073709551616",
    b'"\\ud800"',
    b"\r\n\r\n",
)


class Target:
    """One reader of octets: a corpus, and a function that must not fail in any way but ours."""

    def __init__(
        self, corpus: list[bytes], read: Callable[[bytes], object], damage: Callable[[bytes, random.Random], bytes] | None = None
    ) -> None:
        self.corpus, self._read, self._damage = corpus, read, damage

    def damaged(self, chance: random.Random) -> bytes:
        """One of the corpus, with something wrong: among its octets, or in what its JSON says."""
        octets = chance.choice(self.corpus)
        if self._damage is not None:
            return self._damage(octets, chance)
        if chance.random() < 0.5:
            changed = damaged_json(octets, chance)
            if changed is not None:
                return changed
        return damaged(octets, self.corpus, chance)

    def feed(self, octets: bytes) -> str:
        """What came of it; raises what is a crash."""
        try:
            self._read(octets)
        except (SeedbedError, Malformed, TooLong) as error:
            return type(error).__name__
        return "read"


def targets(directory: Path) -> dict[str, Target]:
    """Every reader, by name; recordings lie in ``directory``."""
    found = {"http head": Target(_heads(), _read_message)}
    for name, protocol in PROTOCOLS.items():
        _, info = wire.discovered(protocol, partial(_answered, protocol)) or (None, INFO)
        asked = {ask: request for ask in ASKS if (request := _request_for(protocol, ask, info)) is not None}
        answers = {ask: _answered(protocol, request) for ask, request in asked.items()}
        captured = [bytes(wire.captured(each)[1].body) for each in wire.captured_names(_CAPTURED.get(name, "nobody"))]
        bodies = [*(bytes(given.body) for given in answers.values()), *captured]
        for ask, given in answers.items():
            label = f"{name} answer {ask.top_k or 'full'}{' ahead' if ask.ahead > 1 else ''}"
            found[label] = Target(bodies, partial(_read_answer, protocol, ask, info, given))
        request = next(iter(asked.values()))
        found[f"{name} request"] = Target([each.body for each in asked.values()], partial(_read_request, protocol, request))
        found[f"{name} discovery"] = Target([*bodies, *_facts(protocol)], partial(_discover, protocol))
    found["refusal"] = Target(
        [bytes(wire.captured(each)[1].body) for each in wire.captured_names("")], lambda octets: str(refusal(HttpResponse(422, (), octets)))
    )
    for tier in TIERS:
        path = write(directory / tier, tier)
        for file in sorted(path.iterdir()):
            found[f"recording {tier} {file.name}"] = Target([file.read_bytes()], partial(_read_recording, path, file.name))
        path = write(directory / f"unsealed {tier}", tier, seal=False)
        corpus = [(path / "steps.jsonl").read_bytes()]
        found[f"recording {tier} lines with right checksums"] = Target(corpus, partial(_read_recording, path, "steps.jsonl"), _damaged_line)
    return found


_CAPTURED = {"llama.cpp": "llamacpp", "vllm": "vllm", "vllm-generate": "vllm-tiny512-rawlogits"}


def _answered(protocol: Protocol, request: HttpRequest) -> HttpResponse:
    return wire.respond(LLM, request, protocol)


def _request_for(protocol: Protocol, ask: Ask, info: ModelInfo) -> HttpRequest | None:
    """None where the protocol has no way to ask that."""
    try:
        return protocol.encode_request(ask, info) if ask.ahead == 1 or protocol.looks_ahead else None
    except SeedbedError:
        return None


def _facts(protocol: Protocol) -> list[bytes]:
    """Every answer that discovery gets from our own server."""
    said: list[bytes] = []

    def ask(request: HttpRequest) -> HttpResponse:
        given = _answered(protocol, request)
        said.append(bytes(given.body))
        return given

    wire.discovered(protocol, ask)
    return said


def _read_answer(protocol: Protocol, ask: Ask, info: ModelInfo, given: HttpResponse, octets: bytes) -> None:
    protocol.decode_response(ask, info, HttpResponse(200, given.headers, octets))


def _read_request(protocol: Protocol, request: HttpRequest, octets: bytes) -> None:
    protocol.decode_request(HttpRequest(request.method, request.path, request.headers, octets))


def _discover(protocol: Protocol, octets: bytes) -> None:
    wire.discovered(protocol, lambda _: HttpResponse(200, (("content-type", "application/json"),), octets))


def _heads() -> list[bytes]:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=9\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    return [chunked, b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", b"HTTP/1.0 404 No\r\n\r\n"]


def _read_message(octets: bytes) -> None:
    end = end_of_head(octets)
    head: ResponseHead | RequestHead = (ResponseHead if octets[:5] == b"HTTP/" else RequestHead).parse(octets[:end])
    if head.is_chunked:
        ChunkedBody(1000).feed(octets[end:])


def _read_recording(path: Path, name: str, octets: bytes) -> None:
    file = path / name
    good = file.read_bytes()
    file.write_bytes(octets)
    try:
        recording = open_recording(path)
        recording.verify()
        for step in recording.steps:
            assert step.observations, step
    finally:
        file.write_bytes(good)


def damaged(octets: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Octets with one to four places changed, taken out, doubled, cut off, or filled with what is hard to read."""
    data = bytearray(octets)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randint(0, len(data)), chance.choice((1, 1, 2, 4, 16, 200))
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
            case 3:
                del data[at:]
            case 4:
                data[at : at + length] = chance.choice(HARD)
            case 5:
                data[at : at + length] = chance.randbytes(length)
            case _:
                other = chance.choice(others)
                data[at:] = other[chance.randint(0, len(other)) :]
    return bytes(data)


def damaged_json(octets: bytes, chance: random.Random) -> bytes | None:
    """JSON with one or two of its values replaced by others, or taken out; None when it is no JSON."""
    try:
        data = orjson.loads(octets)
    except ValueError:
        return None
    for _ in range(chance.randint(1, 2)):
        holders = [(holder, key) for holder in _holders(data) for key in (holder if isinstance(holder, dict) else range(len(holder)))]
        if not holders:
            break
        holder, key = chance.choice(holders)
        if chance.random() < 0.2:
            del holder[key]
        else:
            holder[key] = orjson.loads(chance.choice([*VALUES, b"%d" % chance.getrandbits(40), orjson.dumps(chance.choice(holders)[0])]))
    return orjson.dumps(data)


def _holders(data: object) -> Iterator[dict[str, object] | list[object]]:
    if isinstance(data, (dict, list)):
        yield data
        for inner in data.values() if isinstance(data, dict) else data:
            yield from _holders(inner)


def _damaged_line(octets: bytes, chance: random.Random) -> bytes:
    """One line changed, and its checksum made right: what a hostile writer could do."""
    whole = octets.splitlines(keepends=True)
    place = chance.randrange(len(whole))
    data = {key: value for key, value in lines.parse(whole[place]).items() if key != "crc32"}
    changed = damaged_json(orjson.dumps(data), chance)
    parsed = data if changed is None else orjson.loads(changed)
    if chance.random() < 0.3:
        whole.insert(chance.randrange(len(whole)), whole[place])
    whole[place] = lines.checked(parsed) if isinstance(parsed, dict) else whole[place]
    return b"".join(whole)


def keep(name: str, octets: bytes) -> Path:
    """The file in which an input that crashed is kept."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name.replace(' ', '-').replace('/', '-')}-{hashlib.sha256(octets).hexdigest()[:8]}"
    path.write_bytes(octets)
    return path


def run(minutes: float, seed: int) -> int:
    """Damage for so long; returns how many inputs crashed something."""
    warnings.simplefilter("error")  # a warning on hostile octets is a crash for who runs with -W error
    with tempfile.TemporaryDirectory() as directory:
        every = targets(Path(directory))
        outcomes: dict[str, Counter[str]] = {name: Counter() for name in every}
        crashed, round_, ends = 0, 0, time.monotonic() + 60 * minutes
        while time.monotonic() < ends:
            for name, target in every.items():
                chance = random.Random(f"{seed} {round_} {name}")
                for _ in range(ONE_RUN):
                    octets = target.damaged(chance)
                    try:
                        outcomes[name][target.feed(octets)] += 1
                    except Exception as error:
                        crashed += 1
                        print(f"{name}: {error!r}, from {keep(name, octets)}")
            round_ += 1
    for name, counted in outcomes.items():
        print(f"{name:<40} {counted.total():>9,}  {', '.join(f'{kind} {count}' for kind, count in counted.most_common(5))}")
    total = sum(counted.total() for counted in outcomes.values())
    print(f"{total:,} damaged inputs to {len(every)} readers in {round_} rounds, seed {seed}: {crashed} crashes")
    return crashed


GUIDED = """
import sys
import atheris
with atheris.instrument_imports(include=["seedbed"], enable_loader_override=False):
    from tests.robustness import fuzz
fuzz.guided(*sys.argv[1:])
"""


def guided(name: str, seconds: str) -> None:
    """One target under atheris, in a process of its own, which ends with this: seedbed must have been imported for it."""
    import atheris

    with tempfile.TemporaryDirectory() as directory:
        target = targets(Path(directory))[name]
        corpus = Path(directory) / "corpus"
        corpus.mkdir()
        for number, octets in enumerate(target.corpus):
            (corpus / str(number)).write_bytes(octets)
        atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-artifact_prefix={OUT}/"], target.feed)
        atheris.Fuzz()


def main() -> None:
    """Half of the time under atheris if it is there, the rest with drawn damage."""
    minutes = minutes_from(sys.argv)
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    failed = 0
    if importlib.util.find_spec("atheris") is not None:
        with tempfile.TemporaryDirectory() as directory:
            names = list(targets(Path(directory)))
        minutes /= 2
        OUT.mkdir(parents=True, exist_ok=True)
        for name in names:
            command = [sys.executable, "-c", GUIDED, name, str(max(1, int(60 * minutes / len(names))))]
            failed += subprocess.run(command, check=False).returncode != 0
    sys.exit(1 if run(minutes, seed) + failed else 0)


if __name__ == "__main__":
    main()
