"""Servers that draw tokens themselves, rightly and wrongly: what is wrong is named, and what is right is let be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import trio
from tests.regression.conftest import model
from tests.regression.test_cli_check import ran_command

from seedbed import TinyLM, connect, serve
from seedbed.errors import BadRequest, InvalidSampler, TruncatedRow, UsageError
from seedbed.protocols.exchange import Sample
from seedbed.regression.conformance import conformance
from seedbed.regression.conformance_report import Flaw, FlawName
from seedbed.regression.contexts import Context, Kind, alternatives_of
from seedbed.regression.drawn import Bets, same_draws, temperature_of
from seedbed.regression.quantiles import clopper_pearson
from seedbed.sampling import Sampler
from seedbed.server.planted import PlantedSampler


def names(report):
    return [flaw.name for flaw in report.flaws]


class TestDistribution:
    @pytest.mark.parametrize("parameters", [{}, {"temperature": 0.7, "top_k": 20}, {"temperature": 1.5, "top_p": 0.9, "min_p": 0.02}])
    async def test_a_server_that_does_as_it_is_asked_conforms(self, parameters):
        report = await conformance(PlantedSampler(TinyLM()), seed=1, draws=400, **parameters)

        assert (report.flaws, report.untold, report.excluded) == ((), (), 0)
        assert report.is_conforming
        assert abs(report.z_score) < 3

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_a_temperature_of_1_1_for_1_is_found_in_1000_draws(self, seed):
        report = await conformance(PlantedSampler(TinyLM(), temperature=1.1), seed=seed, draws=1000)

        assert names(report) == ["temperature"]
        assert report.detectable < 0.1
        assert abs(report.temperature.value - 1.1) < 3 * report.temperature.standard_error < 0.09

    @pytest.mark.parametrize(
        ("expected", "planted"), [("vllm", "hf"), ("vllm", "llama.cpp"), ("llama.cpp", "vllm"), ("sglang", "hf"), ("hf", "sglang")]
    )
    async def test_a_wrong_order_is_named_well_within_5000_draws(self, expected, planted):
        server = PlantedSampler(TinyLM(), planted)
        report = await conformance(server, seed=1, order=expected, temperature=1.5, top_k=20, top_p=0.9, min_p=0.02, draws=500)

        assert names(report) == ["order"]
        assert f"order were that of {planted}" in report.flaws[0].detail

    @pytest.mark.parametrize(
        ("asked", "planted", "name", "says"),
        [
            ({}, {"temperature": 0.0}, "greedy", "as if it were greedy"),
            ({"top_k": 5}, {"top_k": 0}, "filter", "top_k were ignored"),
            ({}, {"top_p": 0.95}, "filter", "top_p = 0.95 were on"),
            ({}, {"top_k": 40}, "filter", "top_k = 40 were on"),
            ({"temperature": 0.7}, {"temperature": 1.0}, "temperature", "no temperature were applied"),
        ],
    )
    async def test_what_else_servers_do_is_named(self, asked, planted, name, says):
        report = await conformance(PlantedSampler(TinyLM(), **planted), seed=1, draws=400, **asked)

        assert names(report)[0] == name
        assert says in report.flaws[0].detail
        assert not report.is_conforming

    async def test_tokens_that_are_excluded_are_shown(self):
        report = await conformance(PlantedSampler(TinyLM(), top_k=0), seed=1, draws=200, top_k=5)

        assert report.excluded > 10
        assert f"{report.excluded} draws are tokens that the parameters exclude" in report.flaws[0].detail

    async def test_draws_from_other_rows_than_the_reported_ones_are_unlike_anything_known(self):
        class Other(PlantedSampler):
            async def sample(self, question):
                return await super().sample(Sample((*question.token_ids, 32), seed=question.seed, tokens=question.tokens, n=question.n))

        report = await conformance(Other(model()), seed=1, draws=400)

        assert not report.is_conforming
        assert report.log_e_value > 10

    def test_false_alarms_are_at_most_alpha(self):
        """The two tests at half of alpha each, 200 times; draws are simulated, statistics are conformance's own."""
        asked = Sample((), 0.8, 20, 0.9)
        alternatives = alternatives_of(asked, None)
        chance = np.random.Generator(np.random.Philox(key=3))
        contexts = [Context((1,), chance.normal(0, 2, 64).astype(np.float32), Sampler(0.8, 20, 0.9), alternatives) for _ in range(4)]
        alarms = 0
        for _ in range(200):
            bets, drawn = Bets(len(alternatives)), []
            for context in contexts:
                for token_id in chance.choice(64, 25, p=np.exp(context.logprobs)):
                    drawn.append((context, int(token_id)))
                    bets.add(context.odds(token_id), context.place(token_id, chance.random()))
            alarms += bets.log_peak > np.log(200) or abs(temperature_of(drawn, 0.8)[1]) > 2.807

        assert clopper_pearson(alarms, 200)[0] <= 0.01


def test_the_docstring_lists_every_name_a_flaw_can_have():
    listed = re.findall(r'"([^"]+)"', " ".join(Flaw.__doc__.split()))

    assert sorted(listed) == sorted(get_args(FlawName))
    assert set(get_args(Kind)) < set(listed)


class TestTransform:
    def test_it_is_uniform_under_the_reported_distribution(self):
        context = Context((1,), np.log(np.float32([0.5, 0.25, 0.25])), Sampler(), [])

        assert [context.place(token_id, v) for token_id in (0, 1, 2) for v in (0.0, 0.5)] == pytest.approx(
            [0.0, 0.25, 0.5, 0.625, 0.75, 0.875], abs=1e-7
        )

    def test_every_bet_is_fair(self):
        """Over all tokens, each likelihood ratio has mean 1 or less."""
        asked = Sample((), 1.5, 20, 0.9, 0.02)
        alternatives = alternatives_of(asked, "vllm")
        row = np.random.Generator(np.random.Philox(key=5)).normal(0, 3, 50).astype(np.float32)
        context = Context((1,), row, Sampler(1.5, 20, 0.9, 0.02, order="vllm"), alternatives)
        mean = sum(context.probability(token_id) * context.odds(token_id) for token_id in range(50) if context.probability(token_id))

        assert (mean <= 1 + 1e-9).all()

    def test_the_temperature_is_estimated_where_it_is(self):
        chance = np.random.Generator(np.random.Philox(key=7))
        context = Context((1,), chance.normal(0, 2, 100).astype(np.float32), Sampler(), [])
        p = np.exp(context.logprobs / 0.8)
        drawn = [(context, int(token_id)) for token_id in chance.choice(100, 4000, p=p / p.sum())]
        estimate, z_score = temperature_of(drawn, 1.0)

        assert abs(estimate.value - 0.8) < 3 * estimate.standard_error < 0.05
        assert z_score > 5

    def test_equal_draws_count_the_more_the_less_they_were_to_be_expected(self):
        assert same_draws([(1, 1, 0.01)]) > same_draws([(1, 1, 0.5)]) > 0 > same_draws([(1, 2, 0.5)])


class TestSeeds:
    @pytest.mark.parametrize(
        ("seeds", "name", "says", "is_fault"),
        [
            ("ignored", "seed ignored", "would be by chance", True),
            ("constant", "seeds repeat", "every draw after one prefix is the same token", True),
            ("low bits", "seeds repeat", "seeds 256 apart give the same draws", True),
            ("plus index", "seeds overlap", "sample i of a request is the draw of seed + i", False),
            ("plus step", "seeds overlap", "step t of a seed is step t - 1 of the next one", True),
            ("one for all", "seeds repeat", "all samples of one request are the same", True),
        ],
    )
    async def test_what_they_do_is_named(self, seeds, name, says, is_fault):
        report = await conformance(PlantedSampler(TinyLM(), seeds=seeds), seed=1, draws=200)

        assert names(report) == [name]
        assert says in report.flaws[0].detail
        assert report.is_conforming is not is_fault

    async def test_one_that_repeats_most_of_its_draws_is_told_from_one_that_repeats_none(self):
        class Forgetful(PlantedSampler):
            """A seed asked again gives another draw, one time in four."""

            def __init__(self, llm):
                super().__init__(llm)
                self.seen, self.again = set(), 0

            async def sample(self, question):
                key = (question.token_ids, question.seed)
                self.again += key in self.seen
                forgets = key in self.seen and self.again % 4 == 0
                self.seen.add(key)
                return await super().sample(replace(question, seed=question.seed + (1 << 40)) if forgets else question)

        report = await conformance(Forgetful(TinyLM()), seed=1, draws=200)

        assert names(report) == ["seeds do not always repeat"]
        assert not report.is_conforming

    async def test_a_server_that_refuses_several_samples_is_asked_no_more(self):
        class One(PlantedSampler):
            async def sample(self, question):
                if question.n > 1:
                    raise BadRequest("n must be 1", status=400)
                return await super().sample(question)

        report = await conformance(One(TinyLM()), seed=1, draws=200)

        assert report.untold == ("seeds: several samples in one request are refused (n must be 1)",)
        assert report.is_conforming


class TestOverTheWire:
    @pytest.mark.parametrize("protocol", ["llama.cpp", "vllm", "vllm-generate", "sglang"])
    async def test_draws_of_the_server_in_the_box_conform_in_every_protocol_that_has_them(self, protocol):
        async with (
            serve(TinyLM(), protocols=[protocol]) as server,
            connect(server.url, protocol, top_k="all", eos_token_ids=[256]) as connected,
        ):
            report = await conformance(connected, seed=1, draws=64, temperature=1.2, top_p=0.9)

        assert report.asked["order"] == connected.samples_as
        assert (report.flaws, report.excluded) == ((), 0)

    async def test_the_native_protocol_has_none(self):
        async with serve(TinyLM()) as server, connect(server.url) as connected:
            with pytest.raises(UsageError, match=r"in the native protocol a server draws no tokens itself; .* --protocol: llama\.cpp"):
                await conformance(connected)

    async def test_a_recording_has_none(self):
        ran = await ran_command(TinyLM(), "conformance", "fixtures/recordings/tiny-lm")

        assert (ran.code, ran.out) == (2, "")
        assert "is no URL; a recording draws no tokens itself" in ran.err

    async def test_cut_off_rows_are_refused(self):
        async with serve(TinyLM()) as server, connect(server.url, "llama.cpp", top_k=5) as connected:
            with pytest.raises(TruncatedRow):
                await conformance(connected, seed=1)

    async def test_the_command_ends_with_0_where_draws_conform_and_with_1_where_not(self):
        words = ["conformance", "URL", "--protocol", "llama.cpp", "--draws", "200", "--seed", "1"]
        right = await ran_command(TinyLM(), *words)
        wrong = await ran_command(PlantedSampler(TinyLM(), temperature=1.5), *words, "--json")

        assert (right.code, right.err) == (0, "")
        assert right.out.startswith("verdict        CONFORMS")
        assert (wrong.code, wrong.err) == (1, "")
        assert json.loads(wrong.out)["flaws"][0]["name"] == "temperature"

    async def test_mistakes_get_one_line(self):
        for arguments, says in (
            ([], "draws no tokens itself"),
            (["--protocol", "llama.cpp", "--temperature", "0"], "temperature must be above 0"),
            (["--protocol", "llama.cpp", "--seed", str(2**24)], r"seed must be in [0, 2**24)"),
            (["--protocol", "llama.cpp", "--rows", "3", "--seed", "1"], "ask it for full rows"),
        ):
            result = await ran_command(TinyLM(), "conformance", "URL", *arguments)

            assert (result.code, result.out, result.err.count("\n")) == (3 if "full rows" in says else 2, "", 1), result.err
            assert says in result.err


class TestErrors:
    async def test_a_model_that_only_has_rows_is_refused(self):
        with pytest.raises(UsageError, match="draws no tokens itself"):
            await conformance(TinyLM())

    @pytest.mark.parametrize("arguments", [{"temperature": 0.0}, {"draws": 0}, {"alpha": 0.5}, {"seed": 2**24}])
    async def test_wrong_arguments(self, arguments):
        with pytest.raises(UsageError):
            await conformance(PlantedSampler(TinyLM()), **arguments)

    async def test_parameters_the_order_does_not_take(self):
        with pytest.raises(InvalidSampler):
            await conformance(PlantedSampler(TinyLM()), order="vllm", temperature=3.0, seed=1)

    async def test_cancelled_it_ends(self):
        with trio.CancelScope() as scope:
            scope.cancel()
            await conformance(PlantedSampler(TinyLM()), seed=1)

        assert scope.cancelled_caught
