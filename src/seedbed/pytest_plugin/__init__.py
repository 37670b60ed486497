"""The pytest plugin: tests that sample from a recording, offline, and grow it when asked to.

::

    @pytest.mark.seedbed("fixtures/recordings/tiny-lm")       # a path relative to pytest's root directory; without one, a path of its own
    async def test_it(seedbed_llm, seedbed_check):            # or def, without async: seedbed_llm.generate() runs trio itself
        result = await generate(PROMPT, seedbed_llm, n=4, seed=7)
        seedbed_check(result)                                 # the tokens are those that were recorded

``--seedbed-record`` says what happens to a prefix that the test asks for:

==========  ===================================================================================================================
``none``    (the default) answered from the recording; a miss fails the test. The network is never touched.
``once``    recorded where a test has no recording at all; otherwise as ``none``.
``new``     answered from the recording where it knows the prefix, else by the server, and added.
``all``     asked anew, and replaced; what no test asked for is kept.
``rewrite`` asked anew; what no test asked for is dropped.
==========  ===================================================================================================================

``all`` and ``rewrite`` replace a recording at the end of the session, and only if no test that used it failed or was interrupted;
``rewrite`` moreover only if every test that was collected and samples from it has run, so that nothing a test needs is dropped. A row that
came back with the same bits keeps its line, so what changes in git is what changed. ``seedbed_check`` accepts what it sees in every mode
that may write.

pytest-asyncio may be installed, in its strict mode: in its auto mode it takes every async test for its own, pytest-trio's too.

Rule 1: loading this plugin imports pytest and the standard library; what samples is imported by the fixtures.
Rule 2: fixtures are plain functions, so they work in trio tests and in synchronous ones, whichever other async plugins there are.
Rule 3: no mode or setting of another plugin is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NoReturn

import pytest

from seedbed.pytest_plugin.network import blocked
from seedbed.pytest_plugin.runners import nobody_ran, two_runners
from seedbed.pytest_plugin.session import MARKER, MODES, Session, WrongMarker, settings_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from seedbed.pytest_plugin.check import Check
    from seedbed.pytest_plugin.model import RecordedModel

__all__ = ["seedbed_check", "seedbed_llm", "seedbed_source"]

SESSION = pytest.StashKey[Session]()
FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Three options and two settings, all under our own name."""
    group = parser.getgroup("seedbed", "recordings of language models")
    group.addoption(
        "--seedbed-record",
        choices=MODES,
        default="none",
        help="What to do with answers that tests ask for: see seedbed.pytest_plugin. [none]",
    )
    group.addoption("--seedbed-url", metavar="URL", help="The model server that is recorded.")
    group.addoption(
        "--seedbed-block-network",
        action="store_true",
        help="A test that opens a connection fails, naming the host; what is recorded may be asked.",
    )
    parser.addini("seedbed_recordings", "Directory of recordings whose marker names none. [recordings, beside each test file]", default="")
    parser.addini("seedbed_allowed_hosts", "Hosts that --seedbed-block-network lets through.", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and refuse options that contradict each other."""
    config.addinivalue_line("markers", MARKER)
    mode, url = config.getoption("--seedbed-record"), config.getoption("--seedbed-url")
    if mode != "none" and (hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None)):
        raise pytest.UsageError(f"--seedbed-record={mode} writes recordings that tests share: run it in one process, with -n 0")
    if url is not None and "://" not in url:
        raise pytest.UsageError(f"--seedbed-url must be a URL such as http://host:port, not {url!r}")
    config.stash[SESSION] = Session(mode, url, config.rootpath)


@pytest.fixture
def seedbed_source(request: pytest.FixtureRequest) -> object:
    """What is recorded: the server at ``--seedbed-url``. Set up in modes that record only, so it may cost what it likes.

    Override it to record another URL, a model in this process, or what a function opens, for servers that must be told more:
    ``return lambda: connect(URL, eos_token_ids=[2])``.
    """
    return request.config.stash[SESSION].url


@pytest.fixture
def seedbed_llm(request: pytest.FixtureRequest) -> Generator[RecordedModel, None, None]:
    """The model recorded in ``@pytest.mark.seedbed(recording, protocol=None, top_k=20, tier="top_k")``: an ``LLM`` that answers offline.

    In a synchronous test ``seedbed_llm.generate(...)`` and ``seedbed_llm.row(prefix)`` run trio themselves.
    """
    conflict = two_runners(request.node)
    if conflict is not None:
        _fail(conflict)
    from seedbed.errors import RecordingNotFound, SeedbedError
    from seedbed.pytest_plugin.model import RecordedModel

    session = request.config.stash[SESSION]
    source = None if session.mode == "none" else request.getfixturevalue("seedbed_source")
    try:
        settings = settings_of(request.node)
        model = RecordedModel(session, settings, source)
    except WrongMarker as error:
        _fail(str(error))
    except SeedbedError as error:
        session.failed.setdefault(settings.path, settings.node_id)
        hint = f"; to make it: {settings.command('new', url=source is None)}" if isinstance(error, RecordingNotFound) else ""
        _fail(f"{error}{hint}")
    yield model
    model.close(failed=request.node.stash.get(FAILED, True))


def _fail(message: str) -> NoReturn:
    """Fail the test with one line; the error that says the same is not shown as its cause."""
    raise pytest.fail.Exception(message, pytrace=False) from None


@pytest.fixture
def seedbed_check(seedbed_llm: RecordedModel) -> Check:
    """Assert that what a test sampled is what was recorded: ``seedbed_check(result)``, ``seedbed_check.row(prefix, row)``."""
    from seedbed.pytest_plugin.check import Check

    return Check(seedbed_llm)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note which recordings tests refer to, also those that are deselected."""
    item.config.stash[SESSION].collected(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test itself failed, so that what it recorded is not put in the place of what was good; say what would run one that
    nothing ran."""
    report = yield
    hint = nobody_ran(item, report)
    if hint is not None:
        report.sections.append(("seedbed", hint))
    if report.when == "call" or not report.passed:
        item.stash[FAILED] = report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Block the network around the test and its fixtures."""
    if not item.config.getoption("--seedbed-block-network"):
        return (yield)
    session = item.config.stash[SESSION]
    with blocked([*item.config.getini("seedbed_allowed_hosts"), *session.hosts_to_record]):
        return (yield)


@pytest.hookimpl(trylast=True)  # an interrupted test's fixtures are torn down by then
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put recordings that were made anew in their place; tell xdist's controller what was used."""
    ours = session.config.stash[SESSION]
    if not ours.finish() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["seedbed"] = ours.to_worker_output()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker used."""
    node.config.stash[SESSION].add_worker_output(getattr(node, "workeroutput", {}).get("seedbed"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which recordings were written, and which nothing used."""
    whole: Literal["suite", "modules", ""] = "" if any("::" in argument for argument in config.args) else "modules"
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        whole = "suite"
    lines = config.stash[SESSION].report(whole=whole, verbose=config.get_verbosity() > 0)
    if lines:
        terminalreporter.section("seedbed recordings", sep="-")
        for line in lines:
            terminalreporter.write_line(line)
