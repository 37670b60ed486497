"""The pytest plugin: a marker that names a recording, and a fixture that is the model in it.

Loading it imports pytest and nothing else; the fixture is a plain function, so it works in trio tests and in synchronous ones, with or
without pytest-trio::

    @pytest.mark.seedbed("fixtures/recordings/tiny-lm")
    async def test_it(seedbed_llm):
        result = await generate(PROMPT, seedbed_llm, n=4, seed=7)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seedbed.recording import ReplayLLM

__all__ = ["pytest_configure", "seedbed_llm"]

MARKER = "seedbed(recording): the recording the seedbed_llm fixture answers from, as a path relative to pytest's root directory"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def seedbed_llm(request: pytest.FixtureRequest) -> ReplayLLM:
    """The recorded model named by ``@pytest.mark.seedbed(recording)``: an ``LLM`` that never touches the network."""
    from seedbed.errors import SeedbedError
    from seedbed.recording import ReplayLLM

    marker = request.node.get_closest_marker("seedbed")
    if marker is None or not marker.args:
        pytest.fail("the seedbed_llm fixture needs @pytest.mark.seedbed('path/of/recording')", pytrace=False)
    try:
        return ReplayLLM(request.config.rootpath / marker.args[0])
    except SeedbedError as error:
        pytest.fail(str(error), pytrace=False)
