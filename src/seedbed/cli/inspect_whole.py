"""A whole recording, as ``seedbed inspect`` shows it: its facts, and its prefixes as a tree."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from seedbed.cli.inspect_step import logprob_after, spelled, step_data
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.recording import Recording, Step

__all__ = ["print_recording", "recording_data"]


def print_recording(recording: Recording, verified: str | None, lines: int) -> None:
    """Print it for a person; ``verified`` says what was checked, and ``lines`` are the most of the tree."""
    for name, value in _facts(recording, verified).items():
        click.echo(f"{name:<12} {value}")
    console = Console(highlight=False, soft_wrap=True)
    tree = Tree(Text(recording.path.name, style="bold"), guide_style="dim")
    left = _Room(lines)
    _grow(tree, recording, None, recording.children[None], left)
    console.print(tree)
    if left.hidden:
        click.echo(f"... and {counted(left.hidden, 'more step')}: --lines {lines * 4} shows more, --json all of them, --prefix one of them")


def _facts(recording: Recording, verified: str | None) -> dict[str, str]:
    info = recording.info
    observations = [observation for step in recording.steps for observation in step.observations]
    latencies = [o.asked.latency for o in observations if o.asked.latency is not None]
    tags = Counter(" ".join(o.asked.tags) or "unknown" for o in observations)
    size = sum(file.stat().st_size for file in recording.path.iterdir() if file.is_file())
    facts = {
        "model": f"{info.model} on {info.server or 'an unknown server'}, fingerprint {info.fingerprint or 'unknown'}",
        "vocabulary": f"{info.vocab_size} tokens, ends with {', '.join(map(str, info.eos_token_ids))}",
        "recorded": f"{counted(len(recording.steps), 'step')}, {counted(len(observations), 'answer')}, "
        f"{'full rows' if recording.top_k is None else f'top {recording.top_k}'}, {size / 1e6:.3g} MB"
        f"{'' if recording.is_sealed else '; NOT SEALED: its recorder is running, or was stopped'}",
        "conditions": ", ".join(f"{count} {tag}" for tag, count in tags.most_common()),
    }
    for place, one in enumerate(recording.manifest.accepted, 1):
        why = f"by {one.who}: {one.why} (was {one.model}; {one.verdict}{', ' if one.causes else ''}{', '.join(one.causes)})"
        facts["accepted" if place == len(recording.manifest.accepted) else f"accepted {place}"] = why
    if latencies:
        facts["latency"] = f"median {statistics.median(latencies):.3g} s, at most {max(latencies):.3g} s"
    for name, run in recording.runs.items():
        facts[f"run {name}"] = f"{counted(len(run.token_ids), 'sequence')}, seed {run.seed}, {run.sampler or 'tokens only'}"
    if recording.texts:
        facts["tokenizer"] = f"{counted(len(recording.texts), 'answer')}, such as {_tokenized(recording)}"
    if verified is not None:
        facts["verified"] = verified
    return facts


def _tokenized(recording: Recording) -> str:
    for text, token_ids in recording.texts.tokenized.items():
        return f"{text!r:.60} is {counted(len(token_ids), 'token')}"
    token_ids, text = next(iter(recording.texts.detokenized.items()))
    return f"{counted(len(token_ids), 'token')} {'is' if len(token_ids) == 1 else 'are'} {text!r:.60}"


class _Room:
    """How many lines may still be drawn, and how many steps found no place."""

    def __init__(self, lines: int) -> None:
        self.lines, self.hidden = lines, 0


def _grow(tree: Tree, recording: Recording, above: Step | None, steps: Sequence[Step], room: _Room) -> None:
    """Add steps below a branch, breadth before depth so that what is cut off is what is deep; a chain takes one line."""
    level: list[tuple[Tree, Step | None, Step]] = [(tree, above, step) for step in steps]
    while level:
        following: list[tuple[Tree, Step | None, Step]] = []
        for branch, parent, step in level:
            if not room.lines:
                room.hidden += _size_below(recording, step)
                continue
            chain = [step]
            while len(recording.children.get(chain[-1].number, ())) == 1:
                chain.append(recording.children[chain[-1].number][0])
            room.lines -= 1
            node = branch.add(_label(recording, parent, chain))
            below = recording.children.get(chain[-1].number, ())
            following += [(node, chain[-1], child) for child in sorted(below, key=lambda child: -_probability(chain[-1], child))]
        level = following


def _size_below(recording: Recording, step: Step) -> int:
    count, waiting = 0, [step]
    while waiting:
        below = recording.children.get(waiting.pop().number, ())
        count += 1
        waiting += below
    return count


def _label(recording: Recording, parent: Step | None, chain: Sequence[Step]) -> Text:
    tokens: list[int] = []
    likelihood, at = 0.0, parent
    for step in chain:
        new = step.prefix[0 if at is None else at.length :]
        tokens += new
        if at is not None and len(new) == 1:
            likelihood += logprob_after(at, new[0])
        at = step
    last = chain[-1]
    label = Text()  # what is long comes last, since a narrow terminal cuts it
    if parent is not None:
        label.append(f"{math.exp(likelihood):<9.3g}", style="cyan")
    label.append(f"step {last.number}" + (f", {len(last.observations)} answers" if len(last.observations) > 1 else ""), style="dim")
    return label.append(f"  {spelled(recording, tokens)}")


def _probability(parent: Step, child: Step) -> float:
    return math.exp(logprob_after(parent, child.prefix[parent.length]))


def recording_data(recording: Recording, verified: int | None) -> dict[str, Any]:
    """It, for ``--json``; ``verified`` is how many answers were checked."""
    info = recording.info
    return {
        "path": str(recording.path),
        "model": {
            "model": info.model,
            "server": info.server,
            "fingerprint": info.fingerprint,
            "vocab_size": info.vocab_size,
            "eos_token_ids": list(info.eos_token_ids),
            "protocol": info.protocol,
            "kind": info.kind,
        },
        "tier": recording.tier,
        "top_k": recording.top_k,
        "sealed": recording.is_sealed,
        "verified": verified,
        "steps": [step_data(step) for step in recording.steps],
        "runs": {
            name: {"seed": None if run.seed is None else str(run.seed), "sampler": run.sampler, "token_ids": run.token_ids}
            for name, run in recording.runs.items()
        },
    }
