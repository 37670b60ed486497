"""A check's report as lines of text and as JUnit XML; the page to read in a browser is made in ``page``."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from seedbed.regression.evidence import FEWEST_REPEATS
from seedbed.regression.figures import percent, significant, to_the_digits_of, with_error
from seedbed.regression.verdict import EXIT_CODES, Verdict
from seedbed.wording import counted

if TYPE_CHECKING:
    from seedbed.regression.estimates import Estimate
    from seedbed.regression.result import CheckReport

__all__ = ["as_junit", "as_lines", "findings", "sentence"]

SENTENCES = {
    Verdict.IDENTICAL: "Every row is the recorded one, bit by bit.",
    Verdict.PASS: "Rows differ as the server's own noise does; a drift of {margin} nats or more is excluded.",
    Verdict.CHANGED: "The numerics changed, by less than the margin of {margin} nats.",
    Verdict.DRIFT: "This is not the model that was recorded: it drifted by more than {margin} nats, or single rows are wrong.",
    Verdict.INCONCLUSIVE: "Too little data to say whether it drifted by more than {margin} nats.",
}


def sentence(report: CheckReport) -> str:
    """The verdict in words, with what to do where that is known."""
    words = SENTENCES[report.verdict].format(margin=significant(report.margin))
    if report.needed is not None:
        words += f" About {report.needed} prefixes in place of {report.drift.rows} would settle it: record more sequences."
    elif report.verdict is Verdict.INCONCLUSIVE and report.drift.clusters == 1:
        words += " One sequence holds nearly all prefixes, and shows nothing of its own error: record more sequences."
    elif report.verdict is Verdict.INCONCLUSIVE and not math.isfinite(report.drift.standard_error):
        words += " One answer was held against one, which shows nothing of the noise: ask with repeats=2 or more."
    return words


def as_lines(report: CheckReport) -> list[str]:
    """A line a finding, each number with its standard error."""
    return [f"{name:<14} {value}" for name, value in findings(report)]


def findings(report: CheckReport) -> list[tuple[str, str]]:
    """Name and text of each line."""
    found = [("verdict", f"{report.verdict}: {sentence(report)}")]
    found += [("cause", f"{cause.name} ({100 * cause.share:.0f} % of the drift): {cause.detail}") for cause in report.causes]
    if not report.drift.rows:
        return found
    s, (low, high) = report.statistics, report.interval
    ends = [to_the_digits_of(end, s.drift.standard_error) for end in (low, high)]
    between = f"95 % [{', '.join(ends)}]" if math.isfinite(low) else "no interval from one long sequence"
    flips = s.flips
    found += [
        ("drift D", f"{s.drift} nats, {between}, margin {significant(report.margin)}"),
        ("mean KL", f"{s.kl} nats, {'no noise is known' if report.noise is None else f'of which noise {report.noise}'}"),
        ("KL / entropy", f"{significant(s.kl.value / s.entropy.value if s.entropy.value else 0.0)} of {significant(s.entropy.value)} nats"),
        ("same top", _percent(s.same_top)),
        ("RMS Δp", _percent(s.delta_p)),
        ("PPL ratio", f"{s.perplexity} live / recorded"),
        (
            "flips",
            f"{flips.observed} of {s.drift.rows}; {significant(flips.expected)} expected of noise and ties, {flips.beyond} beyond",
        ),
        ("evidence", _evidence(report)),
        ("single rows", _single_rows(report)),
        *([("free running", str(report.free_run))] if report.free_run is not None else []),
        ("compared", f"{_prefixes(report)}: {_conditions(report)}"),
    ]
    if report.subject.get("not compared"):
        found.append(("refused", f"{counted(report.subject['not compared'], 'prefix')}: no live answer under a recorded condition"))
    return found


def _evidence(report: CheckReport) -> str:
    evidence = report.evidence
    over = counted(evidence.sequences, "sequence") + (f" in {evidence.checks} checks" if evidence.checks > 1 else "")
    return f"e-value {significant(evidence.e_value)} over {over}; {significant(1 / report.alpha)} is an alarm"


def _percent(estimate: Estimate) -> str:
    return f"{with_error(100 * estimate.value, 100 * estimate.standard_error)} %"


def _single_rows(report: CheckReport) -> str:
    sparse = report.sparse
    low, high = sparse.rate
    if sparse.threshold is None:
        few = f"fewer than {FEWEST_REPEATS} repeats of a noisy server to judge {counted(sparse.answers, 'answer')} by"
        return f"{few}; record more sequences, with --repeats 2"
    if not sparse.is_alarm:
        return f"none of {counted(sparse.answers, 'answer')} far off; rate below {percent(high)} at 95 %"
    rate = f"rate of wrong answers {percent(low)} to {percent(high)}"
    return f"{counted(len(sparse.persistent), 'prefix')} wrong each time, {len(sparse.transient)} now and then; {rate}"


def _conditions(report: CheckReport) -> str:
    return ", ".join(f"{counted(count, 'answer')} {name.replace(', ', ' and ')}" for name, count in report.conditions.items())


def _prefixes(report: CheckReport) -> str:
    sequences = len({prefix.sequence for prefix in report.prefixes})
    return f"{counted(len(report.prefixes), 'prefix')} of {counted(sequences, 'sequence')}"


def as_junit(report: CheckReport) -> str:
    """One test suite with one case, as continuous integration reads it; INCONCLUSIVE is an error, not a failure."""
    name = str(report.subject.get("recording", "recording"))
    lines = "\n".join(as_lines(report))
    failed, unknown = EXIT_CODES[report.verdict] == 1, EXIT_CODES[report.verdict] == 4
    outcome = ""
    if failed or unknown:
        tag = "failure" if failed else "error"
        message = f"{report.verdict}: {', '.join(cause.name for cause in report.causes) or 'no cause named'}"
        outcome = f"<{tag} type={quoteattr(report.verdict.value)} message={quoteattr(message)}>{escape(lines)}</{tag}>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuite name="seedbed check" tests="1" failures="{int(failed)}" errors="{int(unknown)}">'
        f'<testcase classname="seedbed.check" name={quoteattr(name)}>{outcome}<system-out>{escape(lines)}</system-out></testcase>'
        "</testsuite>\n"
    )
