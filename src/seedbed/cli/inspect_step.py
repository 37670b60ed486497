"""One step of a recording, as ``seedbed inspect --prefix`` shows it: its row, every answer to it, what follows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from seedbed.llm import TopLogprobs
from seedbed.protocols.rows import logprob_of
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.recording import Recording, Step

__all__ = ["logprob_after", "print_step", "spelled", "step_data"]


def print_step(recording: Recording, step: Step) -> None:
    """Print it for a person."""
    click.echo(f"step {step.number}, after {counted(step.length, 'token')}: {spelled(recording, step.prefix)}")
    click.echo(f"sha256 {step.sha256}, margin {step.margin:.4g} nats")
    for place, observation in enumerate(step.observations):
        asked = observation.asked
        same = "" if observation.same_as is None else f", the same bits as answer {observation.same_as}"
        latency = "" if asked.latency is None else f", {asked.latency:.3g} s"
        click.echo(f"answer {place}: {' '.join(asked.tags) or 'condition unknown'}{latency}{same}")
    recorded = {child.prefix[step.length] for child in recording.children.get(step.number, ())}
    best = step.best
    for token_id in best.token_ids.tolist() if best is not None else []:
        mark = "  recorded further" if token_id in recorded else ""
        text = spelled(recording, [token_id]) if token_id in recording.manifest.token_texts else ""
        click.echo(f"{token_id:>8} {math.exp(logprob_after(step, token_id)):>10.4g}  {text}{mark}".rstrip())


def step_data(step: Step) -> dict[str, Any]:
    """It, for ``--json``."""
    best = [] if step.best is None else zip(step.best.token_ids.tolist(), step.best.logprobs.tolist(), strict=True)
    return {
        "step": step.number,
        "parent": None if step.parent is None else step.parent.number,
        "tokens": step.tokens,
        "prefix_length": step.length,
        "sha256": step.sha256,
        "margin": step.margin if math.isfinite(step.margin) else None,
        "logsumexp": step.logsumexp,
        "best": [{"token_id": token_id, "logprob": logprob if math.isfinite(logprob) else None} for token_id, logprob in best],
        "answers": [
            {"tags": list(o.asked.tags), "concurrency": o.asked.concurrency, "latency": o.asked.latency, "same_as": o.same_as}
            for o in step.observations
        ],
    }


def spelled(recording: Recording, tokens: Sequence[int]) -> str:
    """Tokens as text where the model told what they mean, else as ids."""
    texts = recording.manifest.token_texts
    if all(token_id in texts for token_id in tokens):
        return repr("".join(texts[token_id] for token_id in tokens))
    shown = [str(token_id) for token_id in tokens]
    return " ".join(shown if len(shown) <= 24 else [*shown[:12], "...", *shown[-8:]])


def logprob_after(step: Step, token_id: int) -> float:
    """A token's log-probability after a step's prefix, in nats."""
    row = step.row
    if isinstance(row, TopLogprobs) or step.logsumexp is None:
        return logprob_of(row, token_id)
    return float(row[token_id]) - step.logsumexp if token_id < row.size else -math.inf
