"""Prompts on the command line: as text and as token ids, in the order they were given in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from seedbed.cli.running import within
from seedbed.errors import UsageError
from seedbed.llm.arguments import check_token_ids

if TYPE_CHECKING:
    from seedbed.llm import LLM

__all__ = ["PromptCommand", "prompts_in_order", "prompts_of", "token_ids_in"]

TEXT, TOKEN_IDS = "texts", "id_lists"  # as the two options are called among a command's parameters
ORDER = "seedbed.prompt_order"


class PromptCommand(click.Command):
    """A command that takes prompts: it has both options for them, and knows their order, which click keeps within one option only.

    Args:
        otherwise: what it takes when none is given, for the help; with "" one must be.
    """

    def __init__(self, name: str | None, *, params: list[click.Parameter] | None = None, otherwise: str = "", **attributes: Any) -> None:
        default = f"  [default: {otherwise}]" if otherwise else ""
        prompts = [
            click.Option(
                ["--prompt", TEXT],
                multiple=True,
                metavar="TEXT",
                help=f"A prompt; the server tokenizes it. Repeat for several.{default}",
            ),
            click.Option(["--token-ids", TOKEN_IDS], multiple=True, metavar="ID,ID,...", help="A prompt as token ids. Repeat for several."),
        ]
        super().__init__(name, params=[*prompts, *(params or ())], **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and note the order."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[ORDER] = [option for option in order if option.name in (TEXT, TOKEN_IDS)]
        return super().parse_args(ctx, args)


def prompts_in_order(context: click.Context) -> list[tuple[click.Parameter, str]]:
    """The prompts as they were typed, each with its option."""
    values = {name: iter(context.params.get(name, ())) for name in (TEXT, TOKEN_IDS)}
    return [(option, next(values[option.name])) for option in context.meta.get(ORDER, ())]


async def prompts_of(model: LLM, options: dict[str, Any], deadline: float = math.inf) -> list[list[int]]:
    """All prompts of a ``PromptCommand``, in the order they were given in.

    Raises:
        DeadlineExceeded: they were not tokenized by then.
        UsageError: there is none, or the model knows no such token.
    """
    ids = iter([token_ids_in(text, "--token-ids", "; for text there is --prompt") for text in options[TOKEN_IDS]])
    for text in options[TEXT]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError("--prompt holds octets that are no UTF-8: give token ids instead")
    if not (options[TEXT] or options[TOKEN_IDS]):
        raise UsageError("give a prompt: --prompt TEXT, or --token-ids 1,2,3")
    with within(deadline, "the prompts were tokenized"):
        tokenized = iter([await model.tokenize(text) for text in options[TEXT]])
    order = [option for option, _ in prompts_in_order(click.get_current_context())]
    vocab_size = model.info.vocab_size if model.info else None
    return [
        list(check_token_ids(next(tokenized if option.name == TEXT else ids), f"prompt {place}", vocab_size=vocab_size))
        for place, option in enumerate(order)
    ]


def token_ids_in(text: str, option: str, instead: str = "") -> list[int]:
    """The token ids of an option's value.

    Raises:
        UsageError: it holds something else; ``instead`` ends the message.
    """
    ids = []
    for word in text.replace(",", " ").split():
        try:
            ids.append(int(word))
        except ValueError:
            raise UsageError(f"{option} must be token ids with commas between, such as 1,2,3, not {word!r:.80}{instead}") from None
    return ids
