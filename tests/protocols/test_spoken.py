"""What the protocols say is what they said: to the octet, in both directions."""

from __future__ import annotations

import pytest
from tests.protocols.spoken import FOLDER, SPEAKERS, transcript


@pytest.mark.parametrize("name", SPEAKERS)
def test_nothing_is_said_in_other_words(name: str) -> None:
    """If this change was meant: ``make spoken``, and read the difference."""
    assert transcript(name) == (FOLDER / f"{name}.txt").read_text("utf-8")


def test_nobody_is_left_who_speaks_no_more() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SPEAKERS)
