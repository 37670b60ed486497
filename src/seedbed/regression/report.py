"""A check's report for people and for machines: lines of text, JUnit XML, one HTML page."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from seedbed.regression.plots import drift_plot, flip_plot, position_plot
from seedbed.regression.verdict import EXIT_CODES, Verdict

if TYPE_CHECKING:
    from seedbed.regression.estimates import Estimate
    from seedbed.regression.result import CheckReport

__all__ = ["as_html", "as_junit", "as_lines", "sentence"]

SENTENCES = {
    Verdict.IDENTICAL: "Every row is the recorded one, bit by bit.",
    Verdict.PASS: "Rows differ as the server's own noise does; a drift of {margin} nats or more is excluded.",
    Verdict.CHANGED: "The numerics changed, by less than the margin of {margin} nats.",
    Verdict.DRIFT: "This is not the model that was recorded: it drifted by more than {margin} nats, or single rows are wrong.",
    Verdict.INCONCLUSIVE: "Too little data to say whether it drifted by more than {margin} nats.",
}


def sentence(report: CheckReport) -> str:
    """The verdict in words, with what to do where that is known."""
    words = SENTENCES[report.verdict].format(margin=f"{report.margin:g}")
    if report.needed is not None:
        words += f" About {report.needed} prefixes in place of {report.drift.rows} would settle it: record more sequences."
    return words


def as_lines(report: CheckReport) -> list[str]:
    """A line a finding, each number with its standard error."""
    return [f"{name:<14} {value}" for name, value in _findings(report)]


def _findings(report: CheckReport) -> list[tuple[str, str]]:
    found = [("verdict", f"{report.verdict}: {sentence(report)}")]
    found += [("cause", f"{cause.name} ({100 * cause.share:.0f} % of the drift): {cause.detail}") for cause in report.causes]
    if not report.drift.rows:
        return found
    s, (low, high) = report.statistics, report.interval
    between = f"95 % [{low:.6f}, {high:.6f}]" if math.isfinite(low) else "no interval from one sequence"
    flips = s.flips
    found += [
        ("drift D", f"{s.drift} nats, {between}, margin {report.margin:g}"),
        ("mean KL", f"{s.kl} nats, of which noise {s.noise}"),
        ("KL / entropy", f"{s.kl.value / s.entropy.value if s.entropy.value else 0.0:.6f} of {s.entropy.value:.3f} nats"),
        ("same top", _percent(s.same_top)),
        ("RMS Δp", _percent(s.delta_p)),
        ("PPL ratio", f"{s.perplexity} live / recorded"),
        (
            "flips",
            f"{flips.observed} of {s.drift.rows}; {flips.expected:.1f} expected of noise and ties, {flips.beyond} beyond",
        ),
        ("evidence", f"e-value {report.process.e_value:.3g} over {report.process.sequences} sequences; {1 / report.alpha:.0f} is an alarm"),
        ("single rows", _single_rows(report)),
        *([("free running", str(report.free_run))] if report.free_run is not None else []),
        ("compared", f"{s.drift.rows} prefixes of {s.drift.sequences} sequences: {_conditions(report)}"),
    ]
    if report.subject.get("not compared"):
        found.append(("refused", f"{report.subject['not compared']} prefixes: no live answer under a recorded condition"))
    return found


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.3f} ± {100 * estimate.standard_error:.3f} %"


def _single_rows(report: CheckReport) -> str:
    sparse = report.sparse
    rate = f"rate of wrong answers {100 * sparse.rate[0]:.2f} to {100 * sparse.rate[1]:.2f} %"
    if not sparse.is_alarm:
        return f"none of {sparse.answers} answers far off; rate below {100 * sparse.rate[1]:.2f} % at 95 %"
    return f"{len(sparse.persistent)} prefixes wrong each time, {len(sparse.transient)} now and then; {rate}"


def _conditions(report: CheckReport) -> str:
    return ", ".join(f"{count} answers {name.replace(', ', ' and ')}" for name, count in report.conditions.items())


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


COLOURS = {
    Verdict.IDENTICAL: "good",
    Verdict.PASS: "good",
    Verdict.CHANGED: "note",
    Verdict.DRIFT: "bad",
    Verdict.INCONCLUSIVE: "note",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #6a737d; --line: #d8dde3; --page: #fff; --mark: #0b62c4; --bad: #b42318;
  --good: #176f3a; --note: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --page: #14171b; --mark: #6cb0ff;
  --bad: #ff8a7a; --good: #6fd796; --note: #f0bf62 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 760px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem } p { margin: .3rem 0 }
.good { color: var(--good) } .bad { color: var(--bad) } .note { color: var(--note) } .dim { color: var(--soft) }
table { border-collapse: collapse; width: 100% }
td { padding: .25rem .6rem .25rem 0; border-top: 1px solid var(--line); vertical-align: top }
td:first-child { white-space: nowrap; color: var(--soft) } td { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg .grid { stroke: var(--line) } svg .mark { stroke: var(--mark); fill: var(--mark) } svg .soft { stroke: var(--soft); fill: var(--soft) }
svg .point { stroke: none; fill-opacity: .45 } svg line.margin { stroke: var(--bad); stroke-dasharray: 5 4 }
svg text.margin { fill: var(--bad) } svg .flip { fill: var(--bad) }
"""


def as_html(report: CheckReport) -> str:
    """One page with everything in it: no script, no file beside it, nothing from the network."""
    subject = report.subject
    live = subject.get("live", {})
    title = f"{report.verdict}: {subject.get('recording', 'recording')}"
    causes = "".join(
        f"<li><b>{escape(cause.name)}</b>, {100 * cause.share:.0f} % of the drift: {escape(cause.detail)}</li>" for cause in report.causes
    )
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in _findings(report) if name not in ("verdict", "cause")
    )
    plots = (
        "".join(
            f"<h2>{heading}</h2>{plot(report)}"
            for heading, plot in (
                ("Drift, noise and margin", drift_plot),
                ("Where it is", position_plot),
                ("Flips of the best token", flip_plot),
            )
        )
        if report.prefixes
        else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<p class="dim">seedbed check of <b>{escape(str(subject.get("recording", "")))}</b>:
{escape(str(subject.get("recorded", {}).get("model", "")))} as recorded, {escape(str(live.get("model", "")))} live</p>
<h1 class="{COLOURS[report.verdict]}">{report.verdict}</h1>
<p>{escape(sentence(report))}</p>
{f"<h2>Causes</h2><ul>{causes}</ul>" if causes else ""}
{plots}
<h2>Numbers</h2><table>{rows}</table>
<p class="dim">Errors are standard errors clustered by sequence. D is 2 Σ (√b₁−√a₁)(√b₂−√a₂) over two recorded and two live answers:
noise that is independent between answers has no part in its mean, and without noise it is the KL divergence up to third order.</p>
</body></html>
"""
