"""Recordings on disk: lossless, and whatever is damaged is refused with its place; never a wrong row, never a crash."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.recording.samples import PREFIXES, TIERS, V, content, info_of, row_of, same_rows, write, writer_of

from seedbed import HashLM, RecordingLLM
from seedbed.errors import RecordingBroken, RecordingNotFound, RecordingTooNew, SeedbedError
from seedbed.recording import lines
from seedbed.recording.format import MANIFEST, STEPS, open_recording
from seedbed.recording.shards import HEADER, shard_header, shard_name

SHIPPED = Path(__file__).parents[2] / "fixtures" / "recordings"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {tier: write(tmp_path_factory.mktemp(tier) / "recording", tier, with_run=True) for tier in TIERS}


def copied(path: Path, to: Path) -> Path:
    return Path(shutil.copytree(path, to))


def rows_of(path: Path) -> list[tuple[tuple[int, ...], list[object]]]:
    """Every row, read."""
    return [(step.prefix, [observation.row for observation in step.observations]) for step in open_recording(path).steps]


def rewrite_line(path: Path, number: int, change: dict[str, object]) -> None:
    """Change a line as somebody would who knows the format, its checksum included."""
    all_lines = (path / STEPS).read_bytes().split(b"\n")[:-1]
    data = lines.parse(all_lines[number] + b"\n") | change
    del data["crc32"]
    all_lines[number] = lines.checked(data)[:-1]
    (path / STEPS).write_bytes(b"\n".join(all_lines) + b"\n")


@pytest.mark.parametrize("tier", TIERS)
def test_what_was_written_is_read_back_bit_for_bit(sealed: dict[str, Path], tier: str) -> None:
    recording = open_recording(sealed[tier])

    assert recording.info == info_of(tier)
    assert (recording.tier, recording.top_k, recording.is_sealed) == (tier, 3 if tier == "top_k" else None, True)
    assert [step.prefix for step in recording.steps] == PREFIXES
    assert all(same_rows(step.row, row_of(number, tier)) for number, step in enumerate(recording.steps))
    assert recording.verify() == 7


@pytest.mark.parametrize("tier", TIERS)
def test_every_answer_to_a_prefix_is_kept_with_its_condition(sealed: dict[str, Path], tier: str) -> None:
    first, same, other = open_recording(sealed[tier]).steps[1].observations

    assert (first.asked.tags, same.asked.tags, other.asked.tags) == (("solo", "cold"), ("concurrent", "warm"), ("concurrent", "warm"))
    assert (first.same_as, same.same_as, other.same_as) == (None, 0, None)
    assert same_rows(same.row, first.row)
    assert same_rows(other.row, row_of(99, tier))


def test_a_repr_says_what_it_is(sealed: dict[str, Path], tmp_path: Path) -> None:
    assert repr(open_recording(sealed["top_k"])) == "<Recording recording: m, 5 steps, top 3>"
    assert repr(open_recording(sealed["full"])) == "<Recording recording: m, 5 steps, full rows>"
    assert repr(open_recording(write(tmp_path / "r", seal=False))) == "<Recording r: m, 5 steps, top 3, not sealed>"


def test_a_prefix_is_written_as_what_it_adds_to_its_longest_recorded_beginning(sealed: dict[str, Path]) -> None:
    steps = [json.loads(line) for line in (sealed["top_k"] / STEPS).read_text().splitlines() if "step" in json.loads(line)]

    assert [(line["parent"], line["tokens"]) for line in steps] == [(None, [1, 2]), (0, [3]), (None, [4]), (1, [0]), (2, [4])]


def test_the_tree_knows_a_beginning_that_was_recorded_after_its_continuation(tmp_path: Path) -> None:
    with writer_of(tmp_path / "r", "top_k") as writer:
        for prefix in [(1, 2, 3), (1,), (1, 2), (9,), (1, 2, 3, 4)]:
            writer.append(prefix, row_of(0, "top_k"))
    recording = open_recording(tmp_path / "r")

    assert {key: [s.prefix for s in steps] for key, steps in recording.children.items()} == {
        None: [(1,), (9,)], 1: [(1, 2)], 2: [(1, 2, 3)], 0: [(1, 2, 3, 4)],
    }  # fmt: skip


def test_a_line_of_the_full_tier_says_enough_for_a_first_look(sealed: dict[str, Path]) -> None:
    step = open_recording(sealed["full"]).steps[1]
    row = row_of(1, "full").astype(np.float64)
    want = row - np.log(np.exp(row).sum())

    assert step.best.token_ids.tolist() == np.argsort(-row)[:5].tolist()
    assert np.allclose(step.best.logprobs, np.sort(want)[::-1][:5], atol=1e-6)
    assert step.logsumexp == pytest.approx(np.log(np.exp(row).sum()))
    assert step.margin == pytest.approx(float(np.diff(np.sort(row)[-2:])[0]), abs=1e-6)


def test_a_hash_covers_what_the_model_said_and_nothing_that_was_computed(tmp_path: Path) -> None:
    """Another machine's exponentials change "top" and "logsumexp" in the last place; the row's hash must not."""
    path = write(tmp_path / "recording", "full", seal=False)
    before = content(open_recording(path))
    line = json.loads((path / STEPS).read_text().splitlines()[1])
    top = [value - 1e-7 for value in line["top"]["logprobs"]]
    rewrite_line(path, 1, {"logsumexp": line["logsumexp"] + 1e-9, "top": line["top"] | {"logprobs": top}, "latency": 7})

    assert content(open_recording(path)) == before


def test_the_shards_are_valid_safetensors_of_the_dtype_that_is_just_wide_enough(sealed: dict[str, Path]) -> None:
    from safetensors import safe_open

    found = []
    for shard in sorted(sealed["full"].glob("*.safetensors")):
        with safe_open(shard, "numpy") as file:
            logits = file.get_slice("logits")
            found.append((shard.name, logits.get_dtype(), logits.get_shape()))

    assert found == [(shard_name(1), "BF16", [3, V]), (shard_name(2), "F32", [2, V]), (shard_name(3), "F32", [1, V])]


async def test_opening_a_full_recording_reads_no_row(tmp_path: Path) -> None:
    async with RecordingLLM(HashLM(100_000), tmp_path / "recording", tier="full") as llm:
        for token_id in range(30):
            await llm.next_token_logits([token_id, 1])
    tracemalloc.start()
    recording = open_recording(tmp_path / "recording")
    _, peak = tracemalloc.get_traced_memory()
    row = recording.steps[7].row
    tracemalloc.stop()

    assert row.nbytes == 400_000
    assert peak < 300_000
    assert not row.flags.writeable
    assert sum(file.stat().st_size for file in (tmp_path / "recording").iterdir()) > 12_000_000


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingNotFound, match="no recording at .*nowhere"):
        open_recording(tmp_path / "nowhere")
    with pytest.raises(RecordingNotFound):
        open_recording(tmp_path)


@pytest.mark.parametrize("indent", [2, None])
def test_a_later_version_is_refused_in_whatever_form_it_comes(sealed: dict[str, Path], tmp_path: Path, indent: int | None) -> None:
    path = copied(sealed["top_k"], tmp_path / "copy")
    manifest = json.loads((path / MANIFEST).read_text()) | {"version": 2}
    del manifest["crc32"]
    (path / MANIFEST).write_text(json.dumps(manifest, indent=indent))
    with pytest.raises(RecordingTooNew, match="update seedbed"):
        open_recording(path)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_truncated_at_any_byte_of_any_file_a_sealed_recording_is_refused(
    sealed: dict[str, Path], tmp_path: Path, tier: str, is_thorough: bool
) -> None:
    path = copied(sealed[tier], tmp_path / "copy")
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        cuts = [*range(len(whole))]
        if not is_thorough:  # of a shard's 4 kB of blanks some will do
            cuts = [c for c in cuts if file.suffix != ".safetensors" or c < 160 or c > HEADER - 3 or c % 97 == 0]
            cuts = cuts[:: 2 if tier == "top_k" or file.name == MANIFEST else 7]
        for cut in cuts:
            file.write_bytes(whole[:cut])
            with pytest.raises(RecordingBroken):
                open_recording(path)
        file.write_bytes(whole)
    assert open_recording(path).verify() == 7


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_one_changed_bit_anywhere_is_an_error_and_never_another_row(
    sealed: dict[str, Path], tmp_path: Path, tier: str, is_sealed: bool, is_thorough: bool
) -> None:
    """In an unsealed recording a changed line feed at the very end is a line that was cut off; that is all that can pass."""
    path = copied(sealed[tier], tmp_path / "bits") if is_sealed else write(tmp_path / "bits", tier, seal=False)
    want = rows_of(path)
    passed = []
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        places = [p for p in range(len(whole)) if file.suffix != ".safetensors" or p < 160 or p >= HEADER or p % 97 == 0]
        if tier == "full":  # the other tier tries more places of every text file
            places = [*places[:: 2 if file.name == MANIFEST else 7], len(whole) - 1]
        elif file.name != MANIFEST:
            places = [*places[::3], len(whole) - 1]
        bits = [(p, bit) for p in range(len(whole)) for bit in range(8)] if is_thorough else [(p, p % 8) for p in places]
        for place, bit in bits:
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            try:
                have = rows_of(path)
            except RecordingBroken:
                continue
            passed.append((file.name, place - len(whole)))
            assert all(same_rows(w, h) for one, other in zip(want, have, strict=False) for w, h in zip(one[1], other[1], strict=False))
        file.write_bytes(whole)
    assert set(passed) == (set() if is_sealed else {(STEPS, -1)})


def test_a_damaged_row_is_refused_when_it_is_read_and_names_its_step(sealed: dict[str, Path], tmp_path: Path) -> None:
    path = copied(sealed["full"], tmp_path / "copy")
    with (path / shard_name(2)).open("r+b") as file:
        file.seek(HEADER + 10)
        file.write(b"\x55")
    recording = open_recording(path)

    with pytest.raises(RecordingBroken, match=r"step 1: row 0 of shard 2 .* its hash does not match"):
        recording.steps[1].row  # noqa: B018
    assert same_rows(recording.steps[0].row, row_of(0, "full"))
    with pytest.raises(RecordingBroken, match="step 1:"):
        recording.verify()


def test_shards_that_changed_places_are_refused(sealed: dict[str, Path], tmp_path: Path) -> None:
    """Of the same dtype and length, so that only the rows' hashes can tell."""
    path = tmp_path / "recording"
    with writer_of(path, "full") as writer:
        for number in (1, 3, 5, 7):
            writer.append((number,), row_of(number, "full"))
    one, other = path / shard_name(1), path / shard_name(2)
    swapped = one.read_bytes(), other.read_bytes()
    other.write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    recording = open_recording(path)

    for step in recording.steps:
        with pytest.raises(RecordingBroken, match=f"step {step.number}:"):
            step.row  # noqa: B018


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_missing_file_is_named(sealed: dict[str, Path], tmp_path: Path, is_sealed: bool) -> None:
    for name in (STEPS, shard_name(1), shard_name(2)):
        path = copied(sealed["full"], tmp_path / name) if is_sealed else write(tmp_path / name, "full", seal=False)
        (path / name).unlink()
        with pytest.raises(RecordingBroken, match=name):
            open_recording(path)


@pytest.mark.parametrize("name", [MANIFEST, STEPS, shard_name(1)])
def test_a_link_in_the_place_of_a_file_is_refused(sealed: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = copied(sealed["full"], tmp_path / "copy")
    elsewhere = tmp_path / "elsewhere"
    (path / name).rename(elsewhere)
    (path / name).symlink_to(elsewhere)
    with pytest.raises(RecordingBroken, match=f"{name}.* is a link"):
        open_recording(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
@pytest.mark.parametrize("name", [MANIFEST, STEPS, shard_name(1)])
def test_what_is_no_file_is_refused_and_never_waited_for(sealed: dict[str, Path], tmp_path: Path, name: str, make) -> None:
    path = copied(sealed["full"], tmp_path / "copy")
    (path / name).unlink()
    make(path / name)
    with pytest.raises(RecordingBroken, match="no regular file"):
        open_recording(path)


@pytest.mark.parametrize(
    "header",
    [
        shard_header("BF16", 2**39, V),
        shard_header("F32", 3, V),
        shard_header("BF16", 3, V + 1),
        shard_header("BF16", 3, V).replace(b"[0, ", b"[8, ") if b"[0, " in shard_header("BF16", 3, V) else b"",
        shard_header("BF16", 3, V).replace(b'"logits"', b'"logitz"'),
        shard_header("BF16", 3, V).replace(b"BF16", b"I8  "),
        b"\xff" * 8 + shard_header("BF16", 3, V)[8:],
        b"",
        b"\x00" * HEADER,
        (HEADER - 8).to_bytes(8, "little") + b'{"a":' * 800,
    ],
)
def test_a_header_that_is_not_the_one_possible_is_refused(sealed: dict[str, Path], tmp_path: Path, header: bytes) -> None:
    """Shapes that promise what is not there, holes, a second tensor, nesting: nothing is allocated for any of them."""
    path = copied(sealed["full"], tmp_path / "copy")
    file = path / shard_name(1)
    file.write_bytes(header + file.read_bytes()[HEADER:])
    with pytest.raises(RecordingBroken, match=shard_name(1)):
        open_recording(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"}, {"version": "1"}, {"version": 0}, {"sealed": "yes"}, {"tier": "all"}, {"tier": "full"}, {"top_k": None},
        {"top_k": 0}, {"model": {}}, {"model": None}, {"model": {"vocab_size": 0}}, {"model": {"vocab_size": True}},
        {"model": {"eos_token_ids": []}}, {"model": {"eos_token_ids": [50]}}, {"model": {"eos_token_ids": "00"}},
        {"model": {"kind": "x"}}, {"model": {"model": 1}}, {"model": {"context_length": "9"}}, {"steps": 4}, {"steps": "5"},
        {"sha256": ""}, {"sha256": {}}, {"shards": None}, {"shards": [{"dtype": "F32", "rows": 1}]}, {"token_texts": [1]},
    ],
)  # fmt: skip
def test_a_manifest_that_contradicts_itself_is_refused(sealed: dict[str, Path], tmp_path: Path, change: dict[str, object]) -> None:
    path = copied(sealed["top_k"], tmp_path / "copy")
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["crc32"]
    if change.get("model"):
        change = {"model": manifest["model"] | change["model"]}
    (path / MANIFEST).write_bytes(lines.checked(manifest | change, indent=True))
    with pytest.raises(RecordingBroken):
        open_recording(path)


@pytest.mark.parametrize("data", [b"", b"\n", b"{}", b"[1]", b"\xff\xfe", b"{" * 2000, b'{"format":1}' * 2])
@pytest.mark.parametrize("name", [MANIFEST, STEPS])
def test_garbage_is_refused(sealed: dict[str, Path], tmp_path: Path, name: str, data: bytes) -> None:
    path = copied(sealed["top_k"], tmp_path / "copy")
    (path / name).write_bytes(data)
    with pytest.raises(RecordingBroken):
        open_recording(path)


@pytest.mark.parametrize(
    "change",
    [
        {"parent": 1}, {"parent": -1}, {"parent": True}, {"parent": 0.0}, {"step": 2}, {"step": None}, {"tokens": ["1"]}, {"tokens": []},
        {"tokens": [2**63]}, {"tokens": 3}, {"top": {}}, {"top": None}, {"top": {"token_ids": [1], "logprobs": ["-1"]}},
        {"top": {"token_ids": [1.0], "logprobs": [-1]}}, {"top": {"token_ids": [50], "logprobs": [-1]}},
        {"top": {"token_ids": [1, 1], "logprobs": [-1, -2]}}, {"top": {"token_ids": [1], "logprobs": [3.0]}},
        {"concurrency": 0}, {"concurrency": "1"}, {"cache": "hot"}, {"latency": -1}, {"latency": "1"}, {"repeat": 9}, {"repeat": -1},
        {"repeat": True}, {"repeat": 0, "same": 5}, {"repeat": 0, "same": "0"}, {"phase": "warm"}, {"phase": "scored"},
    ],
)  # fmt: skip
def test_a_line_that_breaks_the_rules_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    """Written by somebody who knows how to make a checksum."""
    path = write(tmp_path / "recording", seal=False)
    rewrite_line(path, 1, change)
    with pytest.raises(RecordingBroken, match=r"line 2 \(step 1\) is damaged"):
        open_recording(path)


@pytest.mark.parametrize(
    "change",
    [
        {"row": [1, 1]}, {"row": [1, -1]}, {"row": [0, 0]}, {"row": [-1, 0]}, {"row": [2**40, 0]}, {"row": ["../../etc/passwd", 0]},
        {"row": [True, 0]}, {"row": "1:0"}, {"row": None}, {"row": [1]}, {"sha256": 5}, {"sha256": "0"}, {"logsumexp": "1"},
        {"top": {}},
    ],
)  # fmt: skip
def test_a_reference_to_a_row_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write(tmp_path / "recording", "full", seal=False)
    rewrite_line(path, 0, change)
    with pytest.raises(RecordingBroken, match=r"line 1 \(step 0\) is damaged"):
        open_recording(path)


def test_a_prefix_recorded_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "recording", seal=False)
    first = lines.parse((path / STEPS).read_bytes().split(b"\n")[0] + b"\n") | {"step": 5}
    del first["crc32"]
    with (path / STEPS).open("ab") as file:
        file.write(lines.checked(first))
    with pytest.raises(RecordingBroken, match=r"line 8 \(step 5\) is damaged: it records a prefix a second time"):
        open_recording(path)


def test_a_sealed_recording_says_which_line_was_damaged(sealed: dict[str, Path], tmp_path: Path) -> None:
    path = copied(sealed["top_k"], tmp_path / "copy")
    text = (path / STEPS).read_text()
    (path / STEPS).write_text(text.replace('"tokens":[3]', '"tokens":[5]'))
    with pytest.raises(RecordingBroken, match="not what was sealed: in line 2, its checksum does not match; restore it"):
        open_recording(path)


@pytest.mark.parametrize("index", range(60))
def test_anything_at_all_in_the_place_of_a_file_is_a_typed_error(sealed: dict[str, Path], tmp_path: Path, index: int) -> None:
    """Random octets over a random stretch of a random file, sealed and checksummed or not: an error of ours, or the rows as they were."""
    rng = np.random.default_rng(index)
    path = copied(sealed[TIERS[index % 2]], tmp_path / "copy")
    want = rows_of(path)
    file = sorted(path.iterdir())[rng.integers(len(list(path.iterdir())))]
    data = bytearray(file.read_bytes())
    begin, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    data[begin : begin + length] = rng.bytes(int(rng.integers(0, 60)))
    file.write_bytes(data)
    try:
        have = rows_of(path)
    except SeedbedError:
        return
    assert all(same_rows(w, h) for one, other in zip(want, have, strict=True) for w, h in zip(one[1], other[1], strict=True))


def test_the_recordings_we_ship_are_small_and_name_no_path() -> None:
    for path in sorted(SHIPPED.iterdir()):
        recording = open_recording(path)
        assert recording.is_sealed
        assert (path / STEPS).stat().st_size < 520 * len(recording.steps)
        assert "/" not in recording.info.model


def test_a_prefix_may_be_any_sequence_of_ints(sealed: dict[str, Path]) -> None:
    recording = open_recording(sealed["top_k"])

    assert {recording.get(prefix).number for prefix in ([1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), range(1, 4))} == {1}
    assert recording.nearest(np.array([1, 2, 9, 9])).number == 0
    assert recording.nearest([1, 2, 9, 9]).number == 0
    assert recording.nearest([9]) is None
