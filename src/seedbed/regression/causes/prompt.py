"""Causes in the prompt: the server answers for another prefix than the one it was asked for."""

from __future__ import annotations

from typing import ClassVar

from seedbed.regression.causes.case import Case, Cause, Finding

__all__ = ["ExtraBos", "MissingBos", "ShiftedByOne"]


class _Misread(Cause):
    """The server answers for another prefix: asked so that its mistake undoes ours, it gives the recorded rows."""

    key: ClassVar[str]
    detail: ClassVar[str]

    def examine(self, case: Case) -> Finding | None:
        tried = case.asked_instead.get(self.key, ())
        before = sum(case.rows[place].kl[0] for place, _ in tried)
        after = sum(max(0.0, kl - float(case.noise[place])) for place, kl in tried)
        # A mistake about the prompt shows nearly everywhere; where few rows are wrong, any other question may miss what is wrong.
        if not tried or before <= 0 or after > 0.1 * before or (case.drift > case.noise).mean() < 0.5:
            return None
        case.drift = case.drift * (after / before)
        case.after = [row.before for row in case.rows]
        return Finding(self.name, 1 - after / before, f"{self.detail}: so asked, {len(tried)} prefixes get the recorded rows")


class ShiftedByOne(_Misread):
    """The row answered is that of the place before."""

    name, key, detail = "shift by one", "one token more", "the rows are those of the prefix without its last token"


class ExtraBos(_Misread):
    """The server puts a begin-of-sequence token in front."""

    name, key, detail = "BOS extra", "without the first token", "a token is put in front of the prompt"


class MissingBos(_Misread):
    """The server takes the first token away."""

    name, key, detail = "BOS missing", "the first token twice", "the first token of the prompt is lost"
