"""The ``seedbed`` command. Nothing here is needed to use the library; everything here is a thin edge over it."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name

import click

from seedbed.errors import SeedbedError, UsageError

__all__ = ["main", "run"]

EXIT_CODES_IN_WORDS = """\b
Exit codes: 0 done; 1 a server has drifted, or does not keep what was promised; 2 wrong usage;
3 the model server; 4 a check was inconclusive; 5 a recording; 70 a fault in seedbed itself;
74 the output; 130 interrupted; 141 the output was not read to its end, as by "| head".
"""


_PLACES = {
    "check": "seedbed.cli.check:check_command",
    "conformance": "seedbed.cli.conformance:conformance_command",
    "doctor": "seedbed.cli.doctor:doctor",
    "generate": "seedbed.cli.generate:generate",
    "inspect": "seedbed.cli.inspect:inspect",
    "probe": "seedbed.cli.probe:probe_command",
    "record": "seedbed.cli.record:record",
    "replay": "seedbed.cli.serve:replay",
    "selftest": "seedbed.cli.selftest:selftest_command",
    "serve": "seedbed.cli.serve:serve",
}


class _Commands(Mapping[str, click.Command]):
    """Every command by its name, imported when it is looked up: none waits for what only others need, and the version for nothing."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = resolve_name(_PLACES[name])
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


@click.group(
    commands=_Commands(),
    epilog=EXIT_CODES_IN_WORDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="seedbed", prog_name="seedbed")
@click.pass_obj
def main(when_imported: Callable[[], object] | None) -> None:
    """Sample from language-model servers in the client, reproducibly.

    \b
    Try it without a model:
      seedbed serve                                   # in one terminal
      seedbed generate http://127.0.0.1:8017 --prompt "The seed" -n 8 --seed 7
    """
    if when_imported is not None:
        when_imported()  # click has looked the command up, and runs it next


def run(when_imported: Callable[[], object] | None = None) -> None:
    """Run the command, turn what went wrong into one line and an exit code.

    Args:
        when_imported: called before the command begins, when the modules it is made of are there.
    """
    _open_closed_streams()
    sys.exit(_exit_code(when_imported))


def _open_closed_streams() -> None:
    """Whoever closes a stream (``>&-``) wants nothing of it; left closed, the next file or socket would take its number."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _exit_code(when_imported: Callable[[], object] | None) -> int:
    code = 0
    try:
        code = _run_main(when_imported)
    except* KeyboardInterrupt:
        code = _interrupted()
    except* BrokenPipeError:  # of standard error
        code = _unread()
    return code


def _run_main(when_imported: Callable[[], object] | None) -> int:
    try:
        result = main.main(standalone_mode=False, obj=when_imported)
        sys.stdout.flush()
    except click.Abort:  # click's word for a KeyboardInterrupt that is in no group
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except SeedbedError as error:
        _complain(error)
        return error.exit_code
    except SystemExit as ending:  # told not to exit by itself, click still does: with 0 once a shell has its completions, and
        return 0 if ending.code == 0 else _unread()  # with 1 when nobody reads its output
    except OSError as error:
        if _is_unread(error):
            return _unread()
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
            return _fault(error) if error.filename is None else _wrong_path(error)
        _give_up_output()
        click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
        return 74
    except Exception as error:
        return _unread() if _is_unread(error) else _fault(error)
    return result if isinstance(result, int) else 0


def _is_unread(error: BaseException) -> bool:
    """Whether all that went wrong is that whoever read our output has seen enough; a server prints from inside a nursery."""
    return isinstance(error, BrokenPipeError) or (isinstance(error, ExceptionGroup) and all(map(_is_unread, error.exceptions)))


def _unread() -> int:
    """Quietly, with the code of a program that dies of the signal: a verdict that nobody read must not look like one."""
    _give_up_output()
    return 128 + 13  # SIGPIPE, which Windows does not have


def _interrupted() -> int:
    click.echo("interrupted", err=True)
    return 130


def _give_up_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: Exception) -> int:
    if os.environ.get("SEEDBED_TRACEBACK"):
        traceback.print_exc()
    else:
        click.echo(f"Error: a fault in seedbed itself: {error!r}. SEEDBED_TRACEBACK=1 shows where; please report it.", err=True)
    return 70


def _wrong_path(error: OSError) -> int:
    """A path that a person gave and the system does not take, such as one that is too long."""
    if os.environ.get("SEEDBED_TRACEBACK"):
        traceback.print_exc()
    click.echo(f"Error: {os.fsdecode(error.filename)} cannot be used: {error.strerror}", err=True)
    return UsageError.exit_code


def _complain(error: SeedbedError) -> None:
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    click.echo(f"Error: {error}{notes}", err=True)
