"""What the plugin knows of one pytest run: its mode, where recordings lie, which were used, which are to be replaced at the end."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

__all__ = ["MARKER", "MODES", "Session", "Settings", "WrongMarker", "settings_of"]

MODES = ("none", "once", "new", "all", "rewrite")
MARKER = (
    "seedbed(recording=None, *, protocol=None, top_k=20, tier='top_k'): the recording the seedbed_llm fixture answers from, a path "
    "relative to pytest's root directory, by default one of the test's own; protocol sends every question through HTTP to a mocked server "
    "of that protocol; top_k and tier are those of a recording that is made"
)
RECORDINGS = "recordings"  # the directory beside a test module, unless a setting names another
SLUG = 40
NODE_ID = pytest.StashKey[str]()


class WrongMarker(Exception):
    """The marker does not say what the fixture needs; the message says what would."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one test says of its recording.

    Attributes:
        path: the recording's directory.
        node_id: of the test.
        name: short, stable and unlike that of any other test.
        protocol: through which to ask, or None for in process.
        top_k, tier: of a recording that is made.
    """

    path: Path
    node_id: str
    name: str
    protocol: str | None = None
    top_k: int = 20
    tier: Literal["full", "top_k"] = "top_k"

    def command(self, mode: str, *, url: bool) -> str:
        """What to type to run this test in another mode."""
        return f"pytest {shlex.quote(self.node_id)} --seedbed-record={mode}{' --seedbed-url=URL' if url else ''}"


def settings_of(item: pytest.Item) -> Settings:
    """What a test's marker says.

    Raises:
        WrongMarker: there is none, or it says something that does not exist.
    """
    marker = item.get_closest_marker("seedbed")
    if marker is None:
        raise WrongMarker(
            "the seedbed_llm fixture needs @pytest.mark.seedbed('path/of/recording'), or @pytest.mark.seedbed for one of its own"
        )
    name = short_name(item)

    def settings(recording: str | Path | None = None, *, protocol: Any = None, top_k: Any = 20, tier: Any = "top_k") -> Settings:
        if recording is not None and ("://" in str(recording) or not str(recording).strip()):
            raise WrongMarker(
                f"@pytest.mark.seedbed takes the path of a recording, not {str(recording)!r}; a server's URL is --seedbed-url"
            )
        path = derived_directory(item) / name if recording is None else item.config.rootpath / recording
        return Settings(path, node_id(item), name, protocol, top_k, tier)

    try:
        return settings(*marker.args, **marker.kwargs)
    except TypeError as error:
        given = (*marker.args, *marker.kwargs)
        raise WrongMarker(f"@pytest.mark.seedbed takes (recording, *, protocol, top_k, tier), not {given}") from error


def node_id(item: pytest.Item) -> str:
    """The id a test was collected under: xdist's ``--dist loadgroup`` changes that of the item."""
    return item.stash.setdefault(NODE_ID, item.nodeid)


def derived_directory(item: pytest.Item) -> Path:
    """Where recordings of a test module lie when its markers do not say."""
    directory = item.config.getini("seedbed_recordings")
    return (item.config.rootpath / directory if directory else item.path.parent / RECORDINGS) / item.path.stem


def short_name(item: pytest.Item) -> str:
    """A file name for a test: what is readable of its name, and a hash that tells it from any other.

    Parameters are part of the node id, whatever they hold and however long they are, so the name is as stable as the node id is.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", item.name.removeprefix("test").lower()).strip("-")[:SLUG].rstrip("-")
    return f"{readable or 'test'}-{hashlib.sha256(node_id(item).encode()).hexdigest()[:8]}"


@dataclass(slots=True)
class Session:
    """One pytest run.

    Attributes:
        mode: of ``--seedbed-record``.
        url: of ``--seedbed-url``.
        root: pytest's root directory.
        asked: {recording: numbers of the steps that were asked for}.
        totals: {recording: how many steps it has}.
        made: recordings that did not exist before this run.
        written: recordings that a test added something to.
        fresh: {recording: the directory beside it in which it is made anew}.
        failed: {recording: a test that used it and failed}.
        waited_for: {recording: tests that sample from it and have not run}.
        notes: what to say at the end.
    """

    mode: str
    url: str | None
    root: Path
    asked: dict[str, set[int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)
    written: set[Path] = field(default_factory=set)
    fresh: dict[Path, Path] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    waited_for: dict[Path, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _referred: set[str] = field(default_factory=set)
    _directories: set[str] = field(default_factory=set)

    @property
    def hosts_to_record(self) -> list[str]:
        """The host that a mode that records has to reach."""
        host = urlsplit(self.url or "").hostname if self.mode != "none" else None
        return [] if host is None else [host]

    def collected(self, item: pytest.Item) -> None:
        """A test was found: its recording is referred to."""
        path = getattr(item, "path", None)
        if path is None:
            return
        self._directories.add(str(derived_directory(item)))
        if item.get_closest_marker("seedbed") is not None:
            try:
                settings = settings_of(item)
            except WrongMarker:
                return  # the fixture says so, if the test ever uses it
            self._referred.add(str(settings.path))
            if "seedbed_llm" in getattr(item, "fixturenames", ()):
                self.waited_for.setdefault(settings.path, set()).add(settings.node_id)

    def used(self, settings: Settings, asked: set[int], total: int) -> None:
        """A test is done with its recording."""
        self.asked.setdefault(str(settings.path), set()).update(asked)
        self.totals[str(settings.path)] = total
        self.waited_for.get(settings.path, set()).discard(settings.node_id)

    def finish(self) -> bool:
        """Put what was made anew in its place; whether that went well."""
        self._remove_unasked()
        if not self.fresh:
            return True
        from seedbed.pytest_plugin.model import replace_recordings

        return replace_recordings(self)

    def _remove_unasked(self) -> None:
        # A test that failed before its first question would find them there, and miss, for ever after.
        for path in sorted(self.made - self.written - set(self.fresh.values())):
            if not self.asked.get(str(path)):
                shutil.rmtree(path, ignore_errors=True)
                self.notes.append(f"not kept: {self.shown(path)}: no test asked it anything")

    def kept_since(self, path: Path) -> str | None:
        """Why a recording must not be replaced by what was made anew; None when it may."""
        if path in self.failed:
            return f"{self.failed[path]} failed"
        waited_for = sorted(self.waited_for.get(path, ()))
        if self.mode == "rewrite" and waited_for:
            return f"{waited_for[0]} samples from it too and has not run: run all of its tests, or record with --seedbed-record=all"
        return None

    def to_worker_output(self) -> dict[str, Any]:
        """What an xdist worker tells its controller."""
        asked = {path: sorted(steps) for path, steps in self.asked.items()}
        return {"asked": asked, "totals": self.totals, "referred": sorted(self._referred), "directories": sorted(self._directories)}

    def add_worker_output(self, output: dict[str, Any] | None) -> None:
        """What a worker told; None when it crashed."""
        if output is not None:
            for path, steps in output["asked"].items():
                self.asked.setdefault(path, set()).update(steps)
            self.totals.update(output["totals"])
            self._referred.update(output["referred"])
            self._directories.update(output["directories"])

    def report(self, *, whole: Literal["suite", "modules", ""], verbose: bool) -> list[str]:
        """What to say at the end: what was written, and what no test refers to, as far as it is known.

        Args:
            whole: what was collected without exception: all there is, or all of some modules.
            verbose: whether what was used is listed too.
        """
        lines = list(self.notes)
        if whole:
            unused = self._unused(also_of_modules_that_are_gone=whole == "suite")
            lines += [f"unused: {self.shown(path)}: no test refers to it; delete it, or name it in a marker" for path in unused]
        for path, steps in sorted(self.asked.items()):
            if not steps and self.mode == "none":
                lines.append(f"unused: {self.shown(path)}: a test opened it and asked for nothing")
            elif verbose:
                lines.append(f"{self.shown(path)}: {len(steps)} of {self.totals[path]} steps were asked for")
        return lines

    def _unused(self, *, also_of_modules_that_are_gone: bool) -> list[str]:
        searched = set(map(Path, self._directories))
        if also_of_modules_that_are_gone:
            beside = {
                directory
                for parent in {path.parent for path in searched if path.parent.name == RECORDINGS}
                for directory in parent.glob("*")
            }
            searched |= {directory for directory in beside if not (directory.parents[1] / f"{directory.name}.py").exists()}
        found = [path for directory in sorted(searched) for path in sorted(directory.glob("*"))]
        return [str(path) for path in found if (path / "manifest.json").exists() and str(path) not in self._referred]

    def shown(self, path: Path | str) -> str:
        """A path as a person would type it here."""
        return str(Path(path).relative_to(self.root)) if Path(path).is_relative_to(self.root) else str(path)
