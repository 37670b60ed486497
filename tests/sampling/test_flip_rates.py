"""Why the draw is Gumbel-max by token id: how often two nearly equal rows give different tokens under the same randomness."""

import numpy as np
import pytest
from tests.sampling.flips import rates

# Total variation, Gumbel by id, inverse CDF by id, inverse CDF sorted.
TABLE = [
    (1.5, 1e-3, (3.9e-4, 5.1e-4, 5.9e-2, 4.4e-2)),
    (2.0, 1e-2, (3.4e-3, 4.0e-3, 4.6e-2, 2.7e-2)),
    (1.5, 1e-2, (3.1e-3, 4.2e-3, 1.1e-1, 1.2e-1)),
    (1.1, 1e-2, (3.9e-3, 5.4e-3, 4.0e-1, 4.8e-1)),
    (2.0, 1e-1, (2.8e-2, 3.5e-2, 1.2e-1, 1.4e-1)),
    (1.5, 1e-1, (4.2e-2, 5.3e-2, 2.8e-1, 3.6e-1)),
]


@pytest.mark.parametrize(("exponent", "noise", "expected"), TABLE, ids=[f"zipf-{e}-noise-{n}" for e, n, _ in TABLE])
def test_gumbel_by_id_flips_little_more_than_it_must_and_an_inverse_cdf_far_more(exponent, noise, expected):
    tv, gumbel, by_id, by_rank, _ = rates(exponent, noise)

    assert tv <= gumbel <= 2 * tv / (1 + tv)
    assert gumbel < 1.8 * tv
    assert min(by_id, by_rank) > 2 * gumbel
    # The table's means are over other rows: within a factor, which for the running sums of a few rows is large.
    assert np.array([tv, gumbel]) == pytest.approx(expected[:2], rel=0.6)
    assert (np.array([by_id, by_rank]) / expected[2:] < 3).all()
    assert (np.array([by_id, by_rank]) / expected[2:] > 1 / 3).all()


def test_after_a_truncation_gumbel_still_flips_least():
    tv, gumbel, by_id, by_rank, _ = rates(1.5, 1e-2, top_p=0.95)

    assert gumbel <= 2 * tv / (1 + tv)
    assert min(by_id, by_rank) > gumbel
