"""What ``CheckReport.to_dict``, and so ``seedbed check --json``, holds: each member by its path, with its meaning.

``[]`` stands for each element of a list. A number that is not finite is null. Members may be added; those here keep their meaning.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["MEMBERS", "finite", "paths_in"]

_ESTIMATE = {
    "value": "the estimate",
    "standard_error": "of it; null when there is only one cluster",
    "rows": "prefixes it rests on",
    "clusters": "clusters of them that are taken to be independent: sequences, short ones together",
}
_STATISTICS = {
    "drift": "mean D, nats",
    "kl": "mean KL(recorded || live), nats, noise included",
    "noise": "mean KL between two answers of one server, nats",
    "same_top": "share of prefixes with the same most probable token",
    "delta_p": "root mean square difference of the probability of the token that followed",
    "perplexity": "of the recorded text, live divided by recorded",
    "entropy": "mean entropy of the recorded rows, nats",
}

MEMBERS: dict[str, str] = {
    "verdict": "IDENTICAL, PASS, CHANGED, DRIFT or INCONCLUSIVE",
    "drift": "mean D: the drift free of noise, nats a token; null when nothing could be compared",
    "interval[]": "its 95 % confidence interval, lower and upper end",
    "margin": "the drift that matters, nats",
    "alpha": "how often DRIFT or CHANGED may be said of a server that is the same",
    "is_exact": "no answer to one question differed on either server",
    "needed": "of INCONCLUSIVE, about how many prefixes would settle it; else null",
    "causes[].name": "what changed",
    "causes[].share": "of the drift it explains, 0 to 1",
    "causes[].detail": "what was seen, as a sentence",
    "causes[].estimate": "null, or the fault's size, such as a temperature",
    **{f"causes[].estimate.{part}": what for part, what in _ESTIMATE.items()},
    **{f"statistics.{name}.{part}": f"{meaning}: {what}" for name, meaning in _STATISTICS.items() for part, what in _ESTIMATE.items()},
    "statistics.flips.observed": "prefixes with another best token",
    "statistics.flips.expected": "how many of them noise and ties explain",
    "statistics.flips.ties": "exact ties at the top as recorded",
    "statistics.flips.beyond": "flips at leads no noise explains",
    "statistics.flips.p_value": "of as many flips or more, by noise alone",
    "statistics.flips.sigma": "standard deviation of the difference of a lead between two answers, nats",
    "evidence.recording": "SHA-256 of the recorded steps: --continue takes the evidence over this recording only",
    "evidence.alpha": "alpha of all checks",
    "evidence.repeats": "live answers to each prefix, in all checks",
    "evidence.stop_early": "whether checks may stop early, all of them",
    "evidence.log_e_values[]": "natural log of the e-value of each check, the latest last",
    "evidence.sequences": "sequences taken in, over all checks",
    "evidence.e_value": "the evidence against 'nothing changed' now, the mean over all checks; 1/alpha is an alarm",
    "sparse.persistent[]": "places, in prefixes, of rows that are far off each time",
    "sparse.transient[]": "places of rows that are far off now and then",
    "sparse.threshold": "KL beyond which a row is far off, nats; null where too few repeated answers are known to say",
    "sparse.answers": "answers looked at",
    "sparse.rate[]": "95 % interval of how often an answer is far off",
    "conditions.*": "how many pairs of answers were compared under each condition, by its name",
    "subject.recording": "name of the recording",
    "subject.recorded.*": "model, server and fingerprint as recorded",
    "subject.live.*": "the same of the live server",
    "subject.prefixes": "recorded prefixes",
    "subject.not compared": "how many had no live answer under a recorded one's condition",
    "free_run": "null, or what came of sampling the recorded runs again",
    "free_run.sequences": "how many were sampled again",
    "free_run.expected": "how many would part by the recorded noise alone",
    "free_run.skipped": "how many cannot be sampled again from the recording alone",
    "free_run.partings[].run": "name of the run of a sequence that goes another way",
    "free_run.partings[].sequence": "its place in the run",
    "free_run.partings[].step": "the token at which it does, from 0",
    "free_run.partings[].recorded": "the token id recorded",
    "free_run.partings[].live": "the token id now",
    "free_run.partings[].margin": "how far the recorded draw led, nats",
    "free_run.partings[].is_near_tie": "whether noise explains it",
    "path[]": "natural log of the e-value after each sequence of this check, earlier checks included",
    "prefixes[].position": "length of the prefix, tokens",
    "prefixes[].sequence": "which sequence it belongs to",
    "prefixes[].d": "its D, nats",
    "prefixes[].kl": "largest KL of its answers, nats",
    "prefixes[].gap": "how far its best token led when recorded, nats; null where only one token is known",
    "prefixes[].flipped": "whether another token is best now",
    "worst[].position": "length of one of the prefixes furthest off, tokens",
    "worst[].end[][]": "its last tokens: id and text, '' where that is unknown",
    "worst[].d": "its D, nats",
    "worst[].kl": "largest KL of its answers, nats",
    "worst[].recorded[][]": "its five best tokens as recorded: id, text, probability",
    "worst[].live[][]": "and live",
    "accepted": "only with --accept: null when nothing changed, or what was noted in the manifest",
    "accepted.who": "who accepted",
    "accepted.why": "why",
    "accepted.verdict": "the verdict that was overruled",
    "accepted.drift": "the drift that was measured, nats",
    "accepted.causes[]": "names of what had changed",
    "accepted.replaced": "SHA-256 of the steps.jsonl that was replaced",
    "accepted.model": "what was recorded before",
}

_OPEN = ("conditions", "subject.recorded", "subject.live")  # objects whose members are names


def finite(value: float) -> float | None:
    """A number as JSON can hold it.

    Example:
        >>> finite(0.5), finite(math.inf)
        (0.5, None)
    """
    return value if math.isfinite(value) else None


def paths_in(value: Any, at: str = "") -> set[str]:
    """The paths of all values in a report as JSON, in the spelling of ``MEMBERS``.

    Example:
        >>> sorted(paths_in({"drift": 1.0, "interval": [0.5, 1.5]}))
        ['drift', 'interval[]']
    """
    if isinstance(value, dict):
        if at in _OPEN:
            return {f"{at}.*"} if value else set()
        return {path for name, inner in value.items() for path in paths_in(inner, f"{at}.{name}" if at else name)}
    if isinstance(value, (list, tuple)):
        return {path for inner in value for path in paths_in(inner, f"{at}[]")}
    return {at}
