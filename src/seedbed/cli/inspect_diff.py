"""Two recordings beside each other, as ``seedbed inspect --diff`` shows them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from seedbed.wording import counted

if TYPE_CHECKING:
    from seedbed.recording import Recording
    from seedbed.recording.compare import Comparison

__all__ = ["comparison_data", "print_comparison", "same_model"]

SHOWN = 10  # of each kind of difference


def same_model(one: Recording, other: Recording) -> bool:
    """Whether both were recorded from the same model, as many tokens of each row."""
    return (one.info, one.top_k) == (other.info, other.top_k)


def print_comparison(comparison: Comparison, one: Recording, other: Recording) -> None:
    """Print it for a person."""
    if not same_model(one, other):
        click.echo(f"model: {one.info.model} ({one.info.fingerprint}), {one!r}")
        click.echo(f"       {other.info.model} ({other.info.fingerprint}), {other!r}")
    click.echo(f"{counted(comparison.same, 'prefix')} with the same answer in both")
    if comparison.changed:
        click.echo(f"{counted(len(comparison.changed), 'prefix')} with another one; where they differ most:")
    for change in comparison.changed[:SHOWN]:
        place = f"  step {change.one.number} (there {change.other.number}), {counted(change.one.length, 'token')}"
        click.echo(f"{place}: token {change.token_id} had probability {math.exp(change.want):.4g}, has {math.exp(change.have):.4g}")
    for name, steps in ((one.path.name, comparison.only_in_one), (other.path.name, comparison.only_in_other)):
        if steps:
            numbers = ", ".join(str(step.number) for step in steps[:SHOWN]) + (", ..." if len(steps) > SHOWN else "")
            click.echo(f"{counted(len(steps), 'prefix')} only in {name}: steps {numbers}")
    if comparison.runs:
        click.echo(f"runs with other tokens: {', '.join(comparison.runs)}")


def comparison_data(comparison: Comparison, one: Recording, other: Recording) -> dict[str, Any]:
    """It, for ``--json``."""
    return {
        "same_model": same_model(one, other),
        "same": comparison.same,
        "changed": [
            {
                "step": change.one.number,
                "other_step": change.other.number,
                "token_id": change.token_id,
                "logprob": change.want if math.isfinite(change.want) else None,
                "other_logprob": change.have if math.isfinite(change.have) else None,
            }
            for change in comparison.changed
        ],
        "only_in_one": [step.number for step in comparison.only_in_one],
        "only_in_other": [step.number for step in comparison.only_in_other],
        "runs": list(comparison.runs),
    }
