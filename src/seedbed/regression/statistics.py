"""The numbers a check reports, each with its error, as the field prints them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from seedbed.regression.estimates import Estimate, clustered_mean, expected_flips, flip_tail, is_near_tie, perplexity_ratio, rms_delta_p

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seedbed.regression.compared import Compared

__all__ = ["Flips", "Statistics", "gap_sigma"]


@dataclass(frozen=True, slots=True)
class Flips:
    """How often another token became the most probable one, and how often noise alone would have made it.

    Attributes:
        observed: prefixes with another best token.
        expected: how many noise explains, by exchanging the two best; a third one overtaking both comes on top.
        ties: exact ties at the top before, of which half flip.
        beyond: flips at gaps of more than 5 standard deviations of the noise: no noise explains one.
        p_value: of as many flips or more, by noise alone.
        sigma: standard deviation, in nats, of the difference of a gap between two answers.
    """

    observed: int
    expected: float
    ties: int
    beyond: int
    p_value: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the compared prefixes say together; see ``estimates`` for each formula.

    Attributes:
        drift: mean D, the drift free of noise, nats; without an error where nothing is known of the noise.
        kl: mean KL(recorded || live), nats: drift and noise together.
        noise: mean KL between two answers of one server to one question, nats.
        same_top: share of prefixes whose most probable token is the same.
        delta_p: root of the mean squared difference of the probability of the token that followed.
        perplexity: of the recorded text, live divided by recorded.
        entropy: mean entropy of the recorded rows, nats, among the tokens listed: drifts grow with it.
        flips: see ``Flips``.
    """

    drift: Estimate
    kl: Estimate
    noise: Estimate
    same_top: Estimate
    delta_p: Estimate
    perplexity: Estimate
    entropy: Estimate
    flips: Flips

    @classmethod
    def of(cls, rows: Sequence[Compared]) -> Self:
        """Over all compared prefixes, at least one."""
        sequences = np.array([row.sequence for row in rows])
        noise = [(kl, row.sequence) for row in rows for kl in row.noise] or [(kl, row.sequence) for row in rows for kl in row.live_noise]
        values, of = zip(*noise, strict=True) if noise else ((0.0,), (0,))
        before, after = np.array([(row.token_before, row.token_after) for row in rows]).T
        return cls(
            drift=_drift(rows),
            kl=clustered_mean([np.mean(row.kl) for row in rows], sequences),
            noise=clustered_mean(values, of),
            same_top=clustered_mean([float(not row.flipped) for row in rows], sequences),
            delta_p=rms_delta_p(np.exp(before), np.exp(after), sequences),
            perplexity=perplexity_ratio(before, after, sequences),
            entropy=clustered_mean([-float((np.exp(row.before) * row.before).sum()) for row in rows], sequences),
            flips=_flips(rows),
        )

    @classmethod
    def unknown(cls) -> Self:
        """Where no two rows could be compared."""
        none = Estimate(math.nan, math.inf, 0, 0)
        return cls(none, none, none, none, none, none, none, Flips(0, 0.0, 0, 0, 1.0, 0.0))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not finite is None."""
        return {
            name: {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in value.items()}
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``to_dict`` wrote."""
        found: dict[str, Any] = {}
        for f in fields(cls):
            given = dict(values[f.name])
            if f.name == "flips":
                found[f.name] = Flips(**given)
                continue
            given["value"] = math.nan if given["value"] is None else given["value"]
            given["standard_error"] = math.inf if given["standard_error"] is None else given["standard_error"]
            found[f.name] = Estimate(**given)
        return cls(**found)


def gap_sigma(rows: Sequence[Compared]) -> float:
    """Standard deviation, in nats, of the difference of the two best tokens' gap between two single answers; 0 when nothing shows it."""
    squares = np.array([row.gap_noise for row in rows])
    return math.sqrt(float(np.nanmean(squares))) if np.isfinite(squares).any() else 0.0


def _drift(rows: Sequence[Compared]) -> Estimate:
    known = [row for row in rows if row.is_noise_free]
    drift = clustered_mean([row.d for row in known or rows], [row.sequence for row in known or rows])
    return drift if known else replace(drift, standard_error=math.inf)


def _flips(rows: Sequence[Compared]) -> Flips:
    gaps = np.array([row.gap for row in rows])
    flipped = np.array([row.flipped for row in rows])
    observed, ties = int(flipped.sum()), int((gaps == 0).sum())
    if not np.isfinite([row.gap_noise for row in rows]).any():
        return Flips(observed, 0.0, ties, 0, 1.0, 0.0)  # what noise explains is not known
    # The means of R answers on either side are compared, whose noise is smaller than that of single ones.
    sigma = gap_sigma(rows) / math.sqrt(float(np.mean([len(row.kl) for row in rows])))
    expected = expected_flips(gaps, sigma)
    beyond = int((flipped & ~is_near_tie(gaps, sigma)).sum())
    return Flips(observed, float(expected.sum()), ties, beyond, flip_tail(expected, observed), sigma)
