"""``seedbed inspect``: what is in a recording, whether it is whole, and how it differs from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from seedbed.cli.inspect_diff import comparison_data, print_comparison, same_model
from seedbed.cli.inspect_step import print_step, step_data
from seedbed.cli.inspect_whole import print_recording, recording_data
from seedbed.cli.options import Integers, SomePath, as_json_option, echo_json
from seedbed.cli.prompts import token_ids_in
from seedbed.cli.urls import require_recording
from seedbed.errors import RecordingBroken, RecordingError, UsageError
from seedbed.recording import open_recording
from seedbed.recording.compare import compare
from seedbed.recording.replay import missed
from seedbed.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seedbed.recording import Recording, Step

__all__ = ["inspect"]


@click.command(name="inspect", short_help="Show a recording, check it, or compare two.")
@click.argument("paths", type=SomePath(), nargs=-1, required=True, metavar="PATH [PATH]")
@click.option("--verify", is_flag=True, help="Read every row and check every hash.")
@click.option("--diff", "differ", is_flag=True, help="Compare two recordings.")
@click.option("--prefix", metavar="ID,ID,...", help="Show one step: its row, every answer to it, what follows.")
@click.option("--lines", type=Integers(1), default=40, show_default=True, help="Of the tree.")
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
    if differ and prefix is not None:
        raise UsageError("--prefix shows one step of one recording, and --diff compares two: leave one of them out")
    for path in paths:
        require_recording(path)
    recordings = [open_recording(path) for path in paths]
    checked = [_verified(recording) if verify else None for recording in recordings]
    if differ:
        return _compare(recordings, checked, as_json)
    (recording,), (verified,) = recordings, checked
    if prefix is not None:
        _show_step(recording, prefix, verified, as_json)
    elif as_json:
        echo_json(recording_data(recording, verified))
    else:
        print_recording(recording, _in_words(verified), lines)
    return 0


def _verified(recording: Recording) -> int:
    """How many answers were checked."""
    try:
        return recording.verify()
    except RecordingBroken as error:
        error.add_note(f"in {recording.path}")
        raise


def _in_words(verified: int | None) -> str | None:
    return None if verified is None else f"{counted(verified, 'answer')}, every hash matches"


def _compare(recordings: Sequence[Recording], verified: Sequence[int | None], as_json: bool) -> int:
    one, other = recordings
    comparison = compare(one, other)
    if as_json:
        echo_json(comparison_data(comparison, one, other) | {"verified": verified})
    else:
        print_comparison(comparison, one, other)
        for recording, count in zip(recordings, verified, strict=True):
            if count is not None:
                click.echo(f"verified     {recording.path.name}: {_in_words(count)}")
    return 0 if comparison.is_same and same_model(one, other) else RecordingError.exit_code


def _show_step(recording: Recording, prefix: str, verified: int | None, as_json: bool) -> None:
    step = _step_at(recording, prefix)
    if as_json:
        echo_json(step_data(step) | {"verified": verified})
        return
    print_step(recording, step)
    if verified is not None:
        click.echo(f"verified     {_in_words(verified)}")


def _step_at(recording: Recording, text: str) -> Step:
    ids = token_ids_in(text, "--prefix")
    if not ids:
        raise UsageError("--prefix is blank, and every step comes after a token or more: give the ids, such as 1,2,3")
    step = recording.get(ids)
    if step is None:
        raise missed(recording, ids)
    return step
