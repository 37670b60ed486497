"""``seedbed probe`` from its arguments to its exit code, over HTTP."""

from __future__ import annotations

import json

import pytest
from tests.regression.conftest import HashLM, model
from tests.regression.test_cli_check import ran_command

from seedbed.server.planted import AboveConcurrency, Noise, PlantedLLM


async def test_a_server_that_repeats_itself_ends_with_0_and_what_to_do_next():
    result = await ran_command(model(), "probe", "URL", "--max-length", "8", "--prompts", "1")

    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("verdict        REPEATABLE")
    assert "next           record it as it is: seedbed record http://127.0.0.1" in result.out


async def test_one_that_does_not_ends_with_1_and_names_the_condition():
    planted = PlantedLLM(model(), Noise(0.1), where=AboveConcurrency(2))
    result = await ran_command(planted, "probe", "URL", "--max-length", "8", "--prompts", "1", "--json")
    (found,) = json.loads(result.out)["breaks"]

    assert (result.code, result.err) == (1, "")
    assert found["condition"] == "concurrency"
    assert found["concurrency"] >= 3  # so many were sent at once; how many of them met at a server so quick is the machine's affair


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fixtures/recordings/tiny-lm"], 2, "is no URL; a recording gives the same answer every time"),
        (["http://127.0.0.1:1"], 3, "connection refused"),
        (["URL", "--max-length", "200000"], 2, "less than the model's context of 131072 tokens"),
        (["URL", "--seed", str(2**128)], 2, "seed must be in"),
    ],
)
async def test_a_mistake_gets_one_line(arguments, code, says):
    result = await ran_command(HashLM(257), "probe", *arguments)

    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert says in result.err
