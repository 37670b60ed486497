"""Planted faults do what they say, where they say, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trio

from seedbed import HashLM, TinyLM, TopLogprobs
from seedbed.errors import UsageError
from seedbed.sampling import softmax
from seedbed.server.planted import (
    AboveConcurrency,
    AtMultiples,
    Circumstances,
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
from seedbed.testing import ScriptedLLM, check_llm

PREFIX = tuple(b"The seed is")
FAULTS = [RoundTo("bfloat16"), RoundTo("float16"), Lattice(), Noise(0.1), Growing(0.01), Scaled(1.3), CutTopK(5), CutTopP(0.9),
          SwappedIds(101, 32), DropBest()]  # fmt: skip


async def row_of(llm, prefix=PREFIX):
    return await llm.next_token_logits(list(prefix))


@pytest.mark.parametrize("fault", [*FAULTS, ShiftByOne(), ExtraToken(256), MissingToken(84)], ids=repr)
async def test_a_model_with_a_fault_is_still_a_model(fault) -> None:
    await check_llm(PlantedLLM(TinyLM(), fault), [PREFIX, PREFIX[:4], PREFIX])


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_the_same_question_gets_the_same_answer_and_a_changed_one(fault) -> None:
    truth = await row_of(TinyLM())
    kept = truth.copy()
    one, other = [await row_of(PlantedLLM(TinyLM(), fault)) for _ in range(2)]

    assert np.array_equal(one, other)
    assert not np.array_equal(one, truth)
    assert np.array_equal(truth, kept)
    assert one.dtype == np.float32


class TestRows:
    def test_bfloat16_is_the_nearest_one(self) -> None:
        row = np.float32([1.0, 1.00390625, 1.01171875, 1.004, -1.004, 0.0, -np.inf, 3.0e38])  # 1 + 2**-8 and 1 + 3 * 2**-8 are ties
        rounded = RoundTo("bfloat16").distort(row, Circumstances(PREFIX))

        assert rounded[:7].tolist() == [1.0, 1.0, 1.015625, 1.0078125, -1.0078125, 0.0, -math.inf]
        assert not (rounded.view(np.uint32) & 0xFFFF).any()

    async def test_float16_survives_the_round_trip(self) -> None:
        row = await row_of(PlantedLLM(TinyLM(), RoundTo("float16")))

        assert np.array_equal(row, row.astype(np.float16).astype(np.float32))

    async def test_the_lattice_has_even_steps_and_both_ends(self) -> None:
        truth, row = await row_of(TinyLM()), await row_of(PlantedLLM(TinyLM(), Lattice()))
        step = (float(truth.max()) - float(truth.min())) / 65535

        assert (row.min(), row.max()) == (truth.min(), truth.max())
        assert np.abs(row - truth).max() <= step / 2 * 1.01
        places = (row.astype(np.float64) - row.min()) / step
        assert np.abs(places - np.rint(places)).max() < 0.01

    async def test_a_temperature_divides(self) -> None:
        assert await row_of(PlantedLLM(TinyLM(), Scaled(2.0))) == pytest.approx(await row_of(TinyLM()) / 2)

    async def test_top_k_and_top_p_exclude_and_change_nothing_else(self) -> None:
        truth = await row_of(TinyLM())
        five, most = await row_of(PlantedLLM(TinyLM(), CutTopK(5))), await row_of(PlantedLLM(TinyLM(), CutTopP(0.9)))
        p = softmax(truth)

        for row in (five, most):
            kept = np.isfinite(row)
            assert np.array_equal(row[kept], truth[kept])
            assert truth[kept].min() >= truth[~kept].max()
        assert np.isfinite(five).sum() == 5
        kept = np.isfinite(most)
        assert p[kept].sum() >= 0.9 > p[kept].sum() - p[kept].min()

    async def test_swapped_ids_are_two(self) -> None:
        truth, row = await row_of(TinyLM()), await row_of(PlantedLLM(TinyLM(), SwappedIds(101, 32)))

        assert (row[101], row[32]) == (truth[32], truth[101])
        assert (row != truth).sum() == 2

    async def test_the_best_is_dropped(self) -> None:
        truth, row = await row_of(TinyLM()), await row_of(PlantedLLM(TinyLM(), DropBest()))

        assert np.flatnonzero(row != truth).tolist() == [int(truth.argmax())]
        assert row.min() == -math.inf

    def test_noise_has_the_size_it_says(self) -> None:
        added = Noise(0.25).distort(np.zeros(100_000, dtype=np.float32), Circumstances(PREFIX))

        assert abs(added.mean()) < 3 * 0.25 / math.sqrt(100_000)
        assert added.std() == pytest.approx(0.25, rel=0.01)

    @pytest.mark.parametrize(
        ("by", "same", "other"),
        [
            ("prefix", Circumstances(PREFIX, 9, True, 4, 16), Circumstances((1, 2))),
            ("shape", Circumstances(PREFIX, 9, True, 4, 1), Circumstances(PREFIX, shape=2)),
            ("cache", Circumstances(PREFIX, 9, False, 4, 16), Circumstances(PREFIX, is_warm=True)),
            ("repeat", Circumstances(PREFIX, 9, True, 0, 16), Circumstances(PREFIX, repeat=1)),
        ],
    )
    def test_noise_depends_on_what_it_says_and_on_the_seed(self, by, same, other) -> None:
        zeros = np.zeros(16, dtype=np.float32)
        want = Noise(1.0, by).distort(zeros, Circumstances(PREFIX))

        assert np.array_equal(Noise(1.0, by).distort(zeros, same), want)
        assert not np.array_equal(Noise(1.0, by).distort(zeros, other), want)
        assert not np.array_equal(Noise(1.0, by, seed=1).distort(zeros, Circumstances(PREFIX)), want)

    def test_growing_noise_grows_with_the_position(self) -> None:
        zeros = np.zeros(50_000, dtype=np.float32)
        short, long = (Growing(0.01).distort(zeros, Circumstances((7,) * length)).std() for length in (2, 200))

        assert (short, long) == (pytest.approx(0.02, rel=0.02), pytest.approx(2.0, rel=0.02))


class TestPrefixes:
    @pytest.mark.parametrize(
        ("fault", "asked"),
        [
            (ShiftByOne(), PREFIX[:-1]),
            (ExtraToken(256), (256, *PREFIX)),
            (MissingToken(PREFIX[0]), PREFIX[1:]),
            (MissingToken(256), PREFIX),
        ],
    )
    async def test_the_model_is_asked_for_another_prefix(self, fault, asked) -> None:
        llm = ScriptedLLM({}, default=[0.0, 1.0])
        prefix = list(PREFIX)
        await PlantedLLM(llm, fault).next_token_logits(prefix)

        assert llm.asked == [asked]
        assert tuple(prefix) == PREFIX

    async def test_a_prefix_of_one_token_is_never_emptied(self) -> None:
        llm = ScriptedLLM({}, default=[0.0, 1.0])
        for fault in (ShiftByOne(), MissingToken(1)):
            await PlantedLLM(llm, fault).next_token_logits([1])

        assert llm.asked == [(1,), (1,)]


class TestPlaces:
    @pytest.mark.parametrize(
        ("where", "lengths"), [(FromPosition(9), {9, 10, 11}), (AtMultiples(4), {4, 8}), (OnePrompt(PREFIX[:7]), {7, 8, 9, 10, 11})]
    )
    async def test_elsewhere_not_a_bit_is_changed(self, where, lengths) -> None:
        llm, truth = PlantedLLM(TinyLM(), Noise(0.1), where=where), TinyLM()
        changed = {n for n in range(1, 12) if not np.array_equal(await row_of(llm, PREFIX[:n]), await row_of(truth, PREFIX[:n]))}

        assert changed == lengths

    async def test_a_fault_of_the_prefix_has_a_place_too(self) -> None:
        llm = ScriptedLLM({}, default=[0.0, 1.0])
        planted = PlantedLLM(llm, ShiftByOne(), where=FromPosition(3))
        for length in (2, 3):
            await planted.next_token_logits(list(PREFIX[:length]))

        assert llm.asked == [PREFIX[:2], PREFIX[:2]]

    @pytest.mark.parametrize("together", [1, 2, 3, 4])
    async def test_concurrency_is_what_was_under_way(self, together) -> None:
        llm, truth = PlantedLLM(TinyLM(), Noise(0.1), where=AboveConcurrency(2)), await row_of(TinyLM())
        rows = []

        async def ask() -> None:
            rows.append(await row_of(llm))

        async with trio.open_nursery() as nursery:
            for _ in range(together):
                nursery.start_soon(ask)

        assert [np.array_equal(row, truth) for row in rows] == [together <= 2] * together
        assert np.array_equal(await row_of(llm), truth)

    async def test_a_cancelled_question_no_longer_counts(self) -> None:
        llm = PlantedLLM(TinyLM(), Noise(0.1), where=AboveConcurrency(1))
        with trio.CancelScope() as scope:
            scope.cancel()
            await row_of(llm)

        assert np.array_equal(await row_of(llm), await row_of(TinyLM()))

    async def test_warm_is_the_second_time_or_a_continuation(self) -> None:
        llm, truth = PlantedLLM(TinyLM(), Noise(0.1), where=WarmOnly()), TinyLM()
        asked = [PREFIX[:4], PREFIX[:3], PREFIX[:4], PREFIX[:6], PREFIX[:2]]
        cold = [np.array_equal(await row_of(llm, prefix), await row_of(truth, prefix)) for prefix in asked]

        assert cold == [True, True, False, False, True]

    async def test_the_batch_shape_is_the_test_s_to_say(self) -> None:
        shapes = iter([1, 8, 1])
        llm = PlantedLLM(TinyLM(), Noise(0.1, "shape"), shape=lambda: next(shapes))
        one, eight, again = [await row_of(llm) for _ in range(3)]

        assert np.array_equal(one, again)
        assert not np.array_equal(one, eight)

    def test_one_in_so_many(self) -> None:
        prefixes = [(n, n + 1) for n in range(20_000)]
        hit = sum(OneIn(200).holds(Circumstances(prefix)) for prefix in prefixes)
        answers = sum(OneIn(200, each_answer=True).holds(Circumstances((1,), repeat=n)) for n in range(20_000))

        assert (hit, answers) == (pytest.approx(100, abs=30), pytest.approx(100, abs=30))
        assert OneIn(200).holds(Circumstances((1,), repeat=5)) == OneIn(200).holds(Circumstances((1,)))


async def test_faults_nest() -> None:
    llm = PlantedLLM(PlantedLLM(TinyLM(), Scaled(2.0)), RoundTo("float16"))

    assert np.array_equal(await row_of(llm), (await row_of(TinyLM()) / 2).astype(np.float16).astype(np.float32))
    assert (llm.info, llm.get_stop_token_id(), llm.token_bytes(65)) == (TinyLM().info, 256, b"A")
    assert repr(PlantedLLM(HashLM(9), Scaled(2.0))) == "PlantedLLM(HashLM(9), Scaled(temperature=2.0), where=Everywhere())"


async def test_a_list_of_the_best_is_refused() -> None:
    llm = PlantedLLM(ScriptedLLM({}, default=TopLogprobs([0], [-0.5], 9)), Scaled(2.0))

    with pytest.raises(UsageError, match="planted in full rows"):
        await llm.next_token_logits([1])
