"""``seedbed inspect``: what is in a recording, whether it is whole, and how it differs from another."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from seedbed.cli.options import as_json_option, token_ids_in
from seedbed.errors import UsageError
from seedbed.llm import TopLogprobs
from seedbed.protocols.rows import logprob_of
from seedbed.recording import Recording, open_recording
from seedbed.recording.compare import Comparison, compare
from seedbed.recording.replay import missed
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.recording import Step

__all__ = ["inspect"]

DIFFERENT = 5
SHOWN = 10


@click.command(name="inspect")
@click.argument("paths", type=click.Path(), nargs=-1, required=True, metavar="PATH [PATH]")
@click.option("--verify", is_flag=True, help="Read every row and check every hash.")
@click.option("--diff", "differ", is_flag=True, help="Compare two recordings.")
@click.option("--prefix", metavar="ID,ID,...", help="Show one step: its row, every answer to it, what follows.")
@click.option("--lines", type=click.IntRange(1), default=40, show_default=True, help="Of the tree.")
@as_json_option
def inspect(paths: tuple[str, ...], verify: bool, differ: bool, prefix: str | None, lines: int, as_json: bool) -> int:
    """Show the recording in PATH as a tree of tokens with their probabilities.

    \b
    Examples:
      seedbed inspect fixtures/recordings/tiny-lm
      seedbed inspect fixtures/recordings/tiny-lm --prefix 84,104,101,32,115,101,101,100
      seedbed inspect recordings/app --verify
      seedbed inspect --diff recordings/before recordings/after

    \b
    Exit codes: 0 done, nothing differs; 2 wrong usage; 5 a recording is missing or damaged, or two
    of them differ.
    """
    if len(paths) != (2 if differ else 1):
        raise UsageError("--diff compares two recordings" if differ else "give one recording, or two with --diff")
    if differ:
        one, other = map(open_recording, paths)
        comparison = compare(one, other)
        _print_json(_comparison_data(comparison, one, other)) if as_json else _print_comparison(comparison, one, other)
        return 0 if comparison.is_same and _same_model(one, other) else DIFFERENT
    recording = open_recording(paths[0])
    verified = recording.verify() if verify else None
    if prefix is not None:
        step = _step_at(recording, prefix)
        _print_json(_step_data(step)) if as_json else _print_step(recording, step)
    elif as_json:
        _print_json(_recording_data(recording, verified))
    else:
        _print_recording(recording, verified, lines)
    return 0


def _print_json(data: object) -> None:
    click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2))


def _step_at(recording: Recording, text: str) -> Step:
    ids = token_ids_in(text, "--prefix")
    step = recording.get(ids)
    if step is None:
        raise missed(recording, ids)
    return step


# The whole of it.


def _print_recording(recording: Recording, verified: int | None, lines: int) -> None:
    for name, value in _facts(recording, verified).items():
        click.echo(f"{name:<12} {value}")
    console = Console(highlight=False, soft_wrap=True)
    tree = Tree(Text(recording.path.name, style="bold"), guide_style="dim")
    left = _Room(lines)
    _grow(tree, recording, None, recording.children[None], left)
    console.print(tree)
    if left.hidden:
        click.echo(f"... and {counted(left.hidden, 'more step')}: --lines {lines * 4} shows more, --json all of them, --prefix one of them")


def _facts(recording: Recording, verified: int | None) -> dict[str, str]:
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
        facts["verified"] = f"{counted(verified, 'answer')}, every hash matches"
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
            likelihood += _logprob(at, new[0])
        at = step
    last = chain[-1]
    label = Text()  # what is long comes last, since a narrow terminal cuts it
    if parent is not None:
        label.append(f"{math.exp(likelihood):<9.3g}", style="cyan")
    label.append(f"step {last.number}" + (f", {len(last.observations)} answers" if len(last.observations) > 1 else ""), style="dim")
    return label.append(f"  {_spelled(recording, tokens)}")


def _spelled(recording: Recording, tokens: Sequence[int]) -> str:
    texts = recording.manifest.token_texts
    if all(token_id in texts for token_id in tokens):
        return repr("".join(texts[token_id] for token_id in tokens))
    shown = [str(token_id) for token_id in tokens]
    return " ".join(shown if len(shown) <= 24 else [*shown[:12], "...", *shown[-8:]])


def _probability(parent: Step, child: Step) -> float:
    return math.exp(_logprob(parent, child.prefix[parent.length]))


def _logprob(step: Step, token_id: int) -> float:
    row = step.row
    if isinstance(row, TopLogprobs) or step.logsumexp is None:
        return logprob_of(row, token_id)
    return float(row[token_id]) - step.logsumexp if token_id < row.size else -math.inf


def _recording_data(recording: Recording, verified: int | None) -> dict[str, Any]:
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
        "steps": [_step_data(step) for step in recording.steps],
        "runs": {
            name: {"seed": None if run.seed is None else str(run.seed), "sampler": run.sampler, "token_ids": run.token_ids}
            for name, run in recording.runs.items()
        },
    }


# One step.


def _print_step(recording: Recording, step: Step) -> None:
    click.echo(f"step {step.number}, after {counted(step.length, 'token')}: {_spelled(recording, step.prefix)}")
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
        click.echo(f"{token_id:>8} {math.exp(_logprob(step, token_id)):>10.4g}  {_spelled(recording, [token_id])}{mark}")


def _step_data(step: Step) -> dict[str, Any]:
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


# Two of them.


def _same_model(one: Recording, other: Recording) -> bool:
    return (one.info, one.top_k) == (other.info, other.top_k)


def _print_comparison(comparison: Comparison, one: Recording, other: Recording) -> None:
    if not _same_model(one, other):
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


def _comparison_data(comparison: Comparison, one: Recording, other: Recording) -> dict[str, Any]:
    return {
        "same_model": _same_model(one, other),
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
