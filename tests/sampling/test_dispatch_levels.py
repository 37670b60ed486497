"""One token on every CPU: the same kept sets, distributions and tokens under every instruction set that numpy can be told to use.

Each level runs in a process of its own, since numpy chooses when it is imported. That the levels really differ is part of the test: if
numpy's own exponentials had the same bits at all of them, agreement would prove nothing.
"""

import json
import os
import subprocess
import sys

import pytest

# Names that numpy knows: unknown ones are ignored with no more than a warning, and a test that sets those proves nothing. Before numpy
# 2.4 the levels had the names of single features.
AVX512 = "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL"
AVX2 = "X86_V3 AVX2 FMA3"
LEVELS = {"all": "", "no AVX-512": AVX512, "baseline": f"{AVX512} {AVX2}"}
PROGRAM = """
import hashlib, json
import numpy as np
from seedbed.sampling import Address, Sampler, softmax

generator = np.random.Generator(np.random.PCG64(2024))
rows = [generator.normal(0, spread, size).astype(np.float32) for spread in (0.0, 0.3, 2.0, 6.0) for size in (50, 3_000, 30_000)]
rows.append(np.round(generator.normal(0, 3, 20_000) * 8).astype(np.float32) / 8)  # many ties, as 16-bit servers give
rows.append(np.repeat(np.float32([0.0, -1.0]), 1_000))
samplers = [
    Sampler(),
    Sampler(temperature=0.7),
    *(Sampler(top_p=p) for p in (0.1, 0.5, 0.9, 0.999)),
    Sampler(temperature=1.7, top_k=200, top_p=0.8, min_p=0.01),
    Sampler(typical_p=0.5),
    Sampler(epsilon_cutoff=1e-4, eta_cutoff=1e-3),
    Sampler(top_h=0.6),
    Sampler(top_n_sigma=1.5, xtc_probability=0.5, xtc_threshold=0.001),
    Sampler(temperature=0.9, dynatemp_range=0.5, dynatemp_exponent=0.7),
    Sampler(mirostat=1, mirostat_tau=3.0),
    Sampler(mirostat=2, mirostat_tau=3.0),
    Sampler(order="llama.cpp", top_k=40, typical_p=0.9, top_p=0.95, min_p=0.05, temperature=0.8, repetition_penalty=1.1),
    Sampler(order="sglang", draw="sglang", temperature=0.8, top_p=0.9),
    Sampler(draw="vllm", temperature=0.8),
    Sampler(draw="inverse-cdf", top_p=0.95),
    Sampler(draw="llama.cpp"),
]
decided, kept = [], hashlib.sha256()
for row in rows:
    for sampler in samplers:
        for step in range(2):
            address = Address(7, step=step)
            drawn = sampler.sample(row, address, [1, 2, 3], [4] * step, state=3.1)
            decided.append((drawn.token_id, drawn.state))
        kept.update(sampler.process(row, [1, 2, 3], [4], address=address, state=3.1).tobytes())
kept.update(softmax(rows[-3]).tobytes())
spot = generator.normal(0, 6, 20_000)
print(json.dumps({
    "numpy": hashlib.sha256(np.exp(-np.abs(spot)).tobytes() + np.log(np.abs(spot)).tobytes()).hexdigest(),
    "numpy32": hashlib.sha256(np.exp(-np.abs(spot.astype(np.float32))).tobytes()).hexdigest(),
    "decided": decided,
    "distributions": kept.hexdigest(),
}))
"""


@pytest.fixture(scope="module")
def answers():
    def at(disabled):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return {level: at(disabled) for level, disabled in LEVELS.items()}


def test_tokens_and_states_are_the_same_at_every_level(answers):
    assert answers["no AVX-512"]["decided"] == answers["all"]["decided"]
    assert answers["baseline"]["decided"] == answers["all"]["decided"]


def test_distributions_have_the_same_bits_at_every_level(answers):
    assert {answer["distributions"] for answer in answers.values()} == {answers["all"]["distributions"]}


def test_the_levels_really_differ(answers):
    """numpy's own exponentials and logarithms do not have the same bits, so the agreement above is an achievement of ours."""
    bits = {(answer["numpy"], answer["numpy32"]) for answer in answers.values()}
    if len(bits) == 1:
        pytest.skip("on this CPU numpy has one level only (no AVX2), or its levels agree: agreement here proves nothing about others")

    assert len(bits) >= 2
