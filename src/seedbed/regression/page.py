"""A check's report as one page to read in a browser, for people who know no statistics: each figure says in one sentence what it shows.

Rule 1: the page needs nothing from anywhere: no script, no font, no file beside it.
Rule 2: whatever a server or a model says is text, never markup.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from seedbed.regression.figures import percent, significant
from seedbed.regression.plots import drift_plot, evidence_plot, flip_plot, position_plot, sequence_plot
from seedbed.regression.report import findings, sentence
from seedbed.regression.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from seedbed.regression.causes import Finding
    from seedbed.regression.result import CheckReport, Listed, Worst

__all__ = ["as_html"]

COLOURS = {
    Verdict.IDENTICAL: "good",
    Verdict.PASS: "good",
    Verdict.CHANGED: "note",
    Verdict.DRIFT: "bad",
    Verdict.INCONCLUSIVE: "note",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d8dde3; --page: #fff; --box: #f5f7f9; --mark: #0b62c4;
  --bad: #b42318; --good: #176f3a; --note: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --page: #14171b; --box: #1c2127;
  --mark: #6cb0ff; --bad: #ff8a7a; --good: #6fd796; --note: #f0bf62 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 800px; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; overflow-wrap: break-word }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .2rem 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem } p { margin: .3rem 0 .6rem }
.good { color: var(--good) } .bad { color: var(--bad) } .note { color: var(--note) } .dim { color: var(--soft) }
.lead { font-size: 1.1rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .7rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; text-align: left }
th { font-weight: 600; color: var(--soft) } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
td:first-child, td.number { white-space: nowrap } td:first-child { color: var(--soft) }
.bar { display: inline-block; height: .7em; background: var(--mark); border-radius: 2px; margin-right: .4em }
.worst { border: 1px solid var(--line); border-radius: 6px; background: var(--box); padding: .6rem .8rem; margin: .7rem 0 }
.sides { display: flex; gap: 1.5rem; flex-wrap: wrap } .sides > div { flex: 1 1 15rem; min-width: 0 }
code { font: 13px/1.4 ui-monospace, monospace; white-space: pre-wrap; background: var(--box); border-radius: 3px; padding: 0 .2em }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg .grid { stroke: var(--line) } svg .mark { stroke: var(--mark); fill: var(--mark) } svg .soft { stroke: var(--soft); fill: var(--soft) }
svg .path { fill: none; stroke-width: 2 } svg .point { stroke: none; fill-opacity: .45 }
svg line.margin { stroke: var(--bad); stroke-dasharray: 5 4 } svg text.margin { fill: var(--bad) } svg .flip { fill: var(--bad) }
@media (max-width: 600px) { svg text { font-size: 19px } .causes th { display: none }
  .causes td { display: block; border: 0; padding: .1rem 0 }
  .causes tr + tr { display: block; border-top: 1px solid var(--line); padding: .4rem 0 } }
"""
FIGURES: tuple[tuple[str, str, Callable[[CheckReport], str]], ...] = (
    (
        "How far it moved",
        "The drift comes back whenever the servers are asked again, the noise does not; what matters begins at the red line.",
        drift_plot,
    ),
    (
        "Sequence by sequence",
        "Each mark is one recorded sequence with the spread of its prefixes: marks that all stand to one side of 0 are no accident.",
        sequence_plot,
    ),
    (
        "Where in the text",
        "Each point is one prefix: a cloud that rises to the right grows with the length, one that begins somewhere begins there.",
        position_plot,
    ),
    (
        "How sure that is",
        "The line is what a bet against 'nothing changed' has become worth, sequence by sequence; above the red line it is proven.",
        evidence_plot,
    ),
    (
        "Other best tokens",
        "Each point is one prefix, red where another token is the best now: at the left edge that is a coin toss, further right it is not.",
        flip_plot,
    ),
)


def as_html(report: CheckReport) -> str:
    """One page with everything in it."""
    subject = report.subject
    title = f"{report.verdict}: {subject.get('recording', 'recording')}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<p class="dim">seedbed check of <b>{escape(str(subject.get("recording", "")))}</b></p>
<h1 class="{COLOURS[report.verdict]}">{report.verdict}</h1>
<p class="lead">{escape(sentence(report))}</p>
{_identities(report)}
{_causes(report.causes)}
{_figures(report)}
{_worst_prefixes(report)}
{_numbers(report)}
</body></html>
"""


def _figures(report: CheckReport) -> str:
    if not report.prefixes:
        return ""
    return "".join(f'<h2>{heading}</h2><p class="dim">{escape(text)}</p>{plot(report)}' for heading, text, plot in FIGURES)


def _identities(report: CheckReport) -> str:
    recorded, live = report.subject.get("recorded", {}), report.subject.get("live", {})
    rows = []
    for name in ("model", "server", "fingerprint"):
        one, other = (str(side.get(name) or "unknown") for side in (recorded, live))
        kind = ' class="note"' if one != other else ""
        rows.append(f"<tr><td>{name}</td><td>{escape(one)}</td><td{kind}>{escape(other)}</td></tr>")
    return f"<table><tr><th></th><th>recorded</th><th>live</th></tr>{''.join(rows)}</table>"


def _causes(causes: tuple[Finding, ...]) -> str:
    if not causes:
        return ""
    rows = "".join(
        f'<tr><td><b>{escape(cause.name)}</b></td><td class="number"><span class="bar" style="width:{50 * cause.share:.0f}px"></span>'
        f"{100 * cause.share:.0f} %</td><td>{escape(cause.detail)}</td></tr>"
        for cause in causes
    )
    return (
        '<h2>What changed</h2><p class="dim">Each cause explains its share of the drift; the strongest stands first.</p>'
        f'<table class="causes"><tr><th>cause</th><th>share</th><th>what was seen</th></tr>{rows}</table>'
    )


def _worst_prefixes(report: CheckReport) -> str:
    if not report.worst:
        return ""
    boxes = "".join(_box(worst) for worst in report.worst)
    return (
        "<h2>The prefixes furthest off</h2>"
        f'<p class="dim">After each text, the five tokens that were likeliest when it was recorded, and those that are now.</p>{boxes}'
    )


def _box(worst: Worst) -> str:
    text = "".join(text or f"⟨{token_id}⟩" for token_id, text in worst.end)
    before = "… " if worst.position > len(worst.end) else ""
    far = f"{worst.position} tokens, D {significant(worst.d)} nats, KL of one answer up to {significant(worst.kl)}"
    return (
        f'<div class="worst"><p>{before}<code>{escape(text)}</code><br><span class="dim">{far}</span></p>'
        f'<div class="sides"><div><b>recorded</b>{_listed(worst.recorded)}</div>'
        f"<div><b>live</b>{_listed(worst.live)}</div></div></div>"
    )


def _listed(tokens: Listed) -> str:
    rows = "".join(
        f'<tr><td class="number">{token_id}</td><td><code>{escape(text)}</code></td>'
        f'<td class="number"><span class="bar" style="width:{60 * min(p, 1.0):.0f}px"></span>{percent(p)}</td></tr>'
        for token_id, text, p in tokens
    )
    return f"<table>{rows}</table>"


def _numbers(report: CheckReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in findings(report) if name not in ("verdict", "cause")
    )
    text = (
        "± is a standard error, clustered by sequence. D is 2 Σ (√b₁−√a₁)(√b₂−√a₂) over two recorded and two live answers: noise that is "
        "independent between answers has no part in its mean, and without noise it is the KL divergence up to third order."
    )
    return f'<h2>All numbers</h2><table>{rows}</table><p class="dim">{text}</p>' if rows else ""
