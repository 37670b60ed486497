"""Each fault, planted, is called by its name and by no other."""

import pytest
from tests.regression.conftest import BOS, HashLM, model, noisy

from seedbed.regression import Verdict, check
from seedbed.regression.causes import CAUSES, PLACES
from seedbed.regression.causes.places import BestPlace
from seedbed.server.planted import (
    AboveConcurrency,
    AtMultiples,
    CutTopK,
    CutTopP,
    DropBest,
    ExtraToken,
    FromPosition,
    Growing,
    Lattice,
    MissingToken,
    Noise,
    OneIn,
    OnePrompt,
    PlantedLLM,
    RoundTo,
    Scaled,
    ShiftByOne,
    SwappedIds,
    WarmOnly,
)

FAULTS = [
    (ShiftByOne(), None, "shift by one", ""),
    (ExtraToken(BOS), None, "BOS extra", ""),
    (MissingToken(BOS), None, "BOS missing", ""),
    (Scaled(1.1), None, "temperature applied", "divided by 1.1 ±"),
    (Scaled(0.7), None, "temperature applied", "divided by 0.7 ±"),
    (CutTopK(20), None, "top-p or top-k applied", "top_k = 20"),
    (RoundTo("bfloat16"), None, "16-bit logits", ""),
    (RoundTo("float16"), None, "16-bit logits", ""),
    (Noise(0.1), None, "quantisation-like noise", ""),
    (Growing(0.01), None, "grows with position", ""),
    (Noise(0.1), FromPosition(16), "from position N", "prefixes of 16 tokens and more"),
    (Noise(0.1), AtMultiples(8), "block multiples", "multiple of 8 "),
    (Noise(0.1), AboveConcurrency(4), "above concurrency c", "more than 4"),
    (Noise(0.1), OnePrompt((BOS, *b"A server")), "one prompt only", "[256, 65, 32, 115,"),
    (SwappedIds(101, 32), None, "swapped ids", "tokens 32 and 101"),
    (DropBest(), OneIn(60), "single rows corrupted", ""),
]


def test_every_cause_has_a_fault_of_its_own_here():
    elsewhere = {"warm cache only", "another model"}  # by a recording, and by a model, of their own; below
    examined = {cause.name for cause in (*CAUSES, *PLACES) if not isinstance(cause, BestPlace)}

    assert {name for _, _, name, _ in FAULTS} | elsewhere == examined


def in_both_tiers(faults):
    """Each in one of the two, by turns; thoroughly, in the other one, too."""
    for number, fault in enumerate(faults):
        one, other = ("full", "top_k")[:: 1 if number % 2 else -1]
        yield pytest.param(one, *fault, id=f"{fault[0]!r:.40}-{one}")
        yield pytest.param(other, *fault, id=f"{fault[0]!r:.40}-{other}", marks=pytest.mark.thorough)


@pytest.mark.parametrize(("tier", "fault", "where", "name", "says"), [*in_both_tiers(FAULTS)])
async def test_it_is_named_and_nothing_else_is(recordings, tier, fault, where, name, says):
    report = await check(recordings / tier, PlantedLLM(model(), fault, where=where), free_run=False)

    assert [cause.name for cause in report.causes] == [name]
    assert says in report.causes[0].detail
    assert report.causes[0].share > 0.9


@pytest.mark.parametrize(
    ("fault", "says"), [(Lattice(), "16-bit lattice"), (RoundTo("bfloat16"), "bfloat16"), (RoundTo("float16"), "float16")]
)
async def test_full_rows_tell_which_sixteen_bits(recordings, fault, says):
    report = await check(recordings / "full", PlantedLLM(model(), fault))

    assert [cause.name for cause in report.causes] == ["16-bit logits"]
    assert f"hold {says} values" in report.causes[0].detail


async def test_a_nucleus_is_seen_in_full_rows(recordings):
    report = await check(recordings / "full", PlantedLLM(model(), CutTopP(0.9)))

    assert [cause.name for cause in report.causes] == ["top-p or top-k applied"]
    assert "top_p of 0.9" in report.causes[0].detail


async def test_what_only_a_warm_cache_does(recordings):
    report = await check(recordings / "no-bos", PlantedLLM(model(), Noise(0.1), where=WarmOnly()))

    assert [cause.name for cause in report.causes] == ["warm cache only"]


async def test_another_vocabulary_is_no_crash(recordings):
    report = await check(recordings / "full", HashLM(300))

    assert (report.verdict, [cause.name for cause in report.causes]) == (Verdict.DRIFT, ["other vocabulary"])
    assert "300 tokens" in report.causes[0].detail


@pytest.mark.parametrize("tier", ["full", "top_k"])
async def test_another_model_is_called_so(recordings, tier):
    class Other(HashLM):
        async def next_token_logits(self, prev_token_ids):
            return await super().next_token_logits([*prev_token_ids, 3, 3])

    report = await check(recordings / tier, Other(257))

    assert (report.verdict, [cause.name for cause in report.causes]) == (Verdict.DRIFT, ["another model"])


async def test_two_faults_are_ranked(recordings):
    scaled = PlantedLLM(model(), Scaled(1.2))
    report = await check(recordings / "full", PlantedLLM(scaled, Noise(0.1), where=FromPosition(16)))

    assert [cause.name for cause in report.causes] == ["temperature applied", "from position N"]
    assert report.causes[0].share > report.causes[1].share > 0.05
    assert sum(cause.share for cause in report.causes) == pytest.approx(1.0, abs=0.01)
    assert report.causes[0].estimate.value == pytest.approx(1.2, abs=1e-3)


NOISY = [
    (Noise(0.1), None, "quantisation-like noise"),
    (Scaled(1.1), None, "temperature applied"),
    (Noise(0.3), FromPosition(16), "from position N"),
    (SwappedIds(101, 32), None, "swapped ids"),
    (DropBest(), OneIn(60), "single rows corrupted"),
    (ShiftByOne(), None, "shift by one"),
    (Growing(0.02), None, "grows with position"),
    (ExtraToken(BOS), None, "BOS extra"),
    (CutTopK(20), None, "top-p or top-k applied"),
    (Noise(0.3), AtMultiples(8), "block multiples"),
    (Noise(0.3), AboveConcurrency(4), "above concurrency c"),
    (Noise(0.3), OnePrompt((BOS, *b"A server")), "one prompt only"),
]


@pytest.mark.parametrize(("fault", "where", "name"), NOISY, ids=lambda value: repr(value)[:40])
async def test_under_noise_it_is_named_and_nothing_else_is(recordings, fault, where, name):
    report = await check(recordings / "noisy", noisy(PlantedLLM(model(), fault, where=where)), free_run=False)

    assert report.verdict == Verdict.DRIFT
    assert [cause.name for cause in report.causes] == [name]


async def test_a_temperature_comes_with_its_error(recordings):
    report = await check(recordings / "noisy", noisy(PlantedLLM(model(), Scaled(1.05))))
    estimate = report.causes[0].estimate

    assert report.causes[0].name == "temperature applied"
    # The quarter of prefixes that fits best decides, so the error is that of the quarter.
    assert abs(estimate.value - 1.05) < 0.004
    assert 0 < estimate.standard_error < 0.002
