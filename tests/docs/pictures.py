"""``make pictures``: the README's pictures, each from a real run; the progress on a virtual clock, the same each time."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import Self

import trio
import trio.testing
from rich.console import Console
from rich.text import Text

from seedbed import RecordingLLM, Sampler, TinyLM, check, generate, open_generation
from seedbed.cli import progress
from seedbed.regression.page import STYLE
from seedbed.regression.plots import position_plot
from seedbed.regression.report import as_lines
from seedbed.server.planted import FromPosition, PlantedLLM, RoundTo, Scaled
from tests.docs.pages import GUIDE

WIDTH = 100
PROMPTS = [list(text) for text in (b"The seed", b"In spring", b"A gardener")]


class Slow(TinyLM):
    """Rows take from 20 to 100 ms, longer or shorter by prefix."""

    async def next_token_logits(self, prev_token_ids):
        await trio.sleep(0.02 + 0.08 * (sum(prev_token_ids) % 13) / 13)
        return await super().next_token_logits(prev_token_ids)


class Frames:
    """Stands in for rich's Live: keeps what would have been shown."""

    def __init__(self, **_: object) -> None:
        self.shown: list[object] = []

    def __enter__(self) -> Self:
        Frames.last = self
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, renderable: object, *, refresh: bool) -> None:
        self.shown.append(renderable)


def terminal() -> Console:
    """One that is drawn instead of shown."""
    return Console(record=True, force_terminal=True, width=WIDTH, height=24, file=io.StringIO(), color_system="truecolor")


def as_svg(console: Console, title: str) -> str:
    """What a terminal shows, without the fonts that rich would have a reader's browser fetch."""
    svg = console.export_svg(title=title, unique_id=re.sub(r"\W", "", title))
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def live_progress() -> str:
    """``seedbed generate`` on a terminal, when about half of the sequences are done."""
    console = terminal()
    progress.Live, progress.Console = Frames, lambda **_: console  # type: ignore[assignment, misc]

    async def main() -> None:
        model = Slow()
        sampler = Sampler(temperature=0.8)
        async with (
            progress.watch(model, quiet=False),
            open_generation(PROMPTS, model, n=5, seed=7, sampler=sampler, max_new_tokens=78) as generation,
        ):
            await generation.wait()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    frames = Frames.last.shown
    console.print(Text('$ seedbed generate http://127.0.0.1:8017 --prompt "The seed" --prompt ... -n 5 --seed 7'))
    console.print(frames[len(frames) * 6 // 10])
    return as_svg(console, "seedbed generate")


async def recorded(path: Path) -> None:
    """What the reports are about: three prompts, two sequences each, every answer had twice."""
    async with RecordingLLM(TinyLM(), path, "full", repeats=2) as model:
        await generate(PROMPTS, model, n=4, seed=7, max_new_tokens=78)


def report(path: Path) -> str:
    """``seedbed check`` of a server that applies a temperature of 1.05."""
    console = terminal()
    console.print(Text("$ seedbed check recordings/garden http://127.0.0.1:8017"))
    for line in as_lines(trio.run(check, path, PlantedLLM(TinyLM(), Scaled(1.05)))):
        style = "bold red" if line.startswith("verdict") else "yellow" if line.startswith("cause") else ""
        console.print(Text(line, style=style))
    return as_svg(console, "seedbed check")


def drift_by_position(path: Path) -> str:
    """The chart of a server that keeps its numbers in 16 bits from position 40 on."""
    found = trio.run(check, path, PlantedLLM(TinyLM(), RoundTo("bfloat16"), where=FromPosition(40)))
    rules = [re.search(r":root \{[^}]*\}", STYLE)[0], *re.findall(r"^svg .*$", STYLE, re.MULTILINE)]  # type: ignore[index]
    plot = position_plot(found)
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return re.sub(
        r"<svg ([^>]*)>",
        lambda tag: f'<svg xmlns="http://www.w3.org/2000/svg" {tag[1]}><style>{" ".join(rules)}</style>{background}',
        plot,
        count=1,
    )


def main() -> None:
    """Draw all of them into the guide's directory."""
    pictures = {"progress.svg": live_progress()}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "garden"
        trio.run(recorded, path)
        pictures |= {"report.svg": report(path), "drift.svg": drift_by_position(path)}
    for name, svg in pictures.items():
        (GUIDE / name).write_text(svg, "utf-8")
        print(f"{name}: {len(svg):,} octets")


if __name__ == "__main__":
    main()
