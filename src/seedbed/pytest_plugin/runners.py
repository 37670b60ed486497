"""The plugins that run async tests, and what to change where none does, or two do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["nobody_ran", "two_runners"]


def two_runners(item: pytest.Item) -> str | None:
    """What to change when pytest-trio and pytest-asyncio both take a test for theirs, which then cannot run; None otherwise."""
    if item.get_closest_marker("trio") is None or not any(kind.__module__.startswith("pytest_asyncio") for kind in type(item).__mro__):
        return None
    return (
        "pytest-trio and pytest-asyncio both take this test for theirs: set asyncio_mode = strict in pytest's configuration, and put no "
        "@pytest.mark.asyncio on tests of seedbed_llm, which runs under trio"
    )


def nobody_ran(item: pytest.Item, report: pytest.TestReport) -> str | None:
    """What to change when pytest found no plugin that would run an async test of ours; None otherwise."""
    if not report.failed or item.get_closest_marker("seedbed") is None or "not natively supported" not in str(report.longrepr):
        return None
    return "pytest-trio runs it: pip install pytest-trio, and set trio_mode = true in pytest's configuration, or add @pytest.mark.trio"
