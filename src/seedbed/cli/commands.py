"""Commands to type: the one under way again, and one to try next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from seedbed.cli.options import spelling
from seedbed.cli.prompts import prompts_in_order
from seedbed.cli.urls import shown_source
from seedbed.recording import ReplayLLM
from seedbed.recording.replay import SHOWN_IN_COMMAND

if TYPE_CHECKING:
    from seedbed.llm import LLM

__all__ = ["command_again", "sampling_words", "to_try", "typed_prompts"]


def to_try(source: str, llm: LLM, *, tokenizes: bool) -> str:
    """A command that samples from a model, to be typed as it is; of a recording what it holds for certain."""
    prompt = '--prompt "The seed" -n 8' if tokenizes else "--token-ids 1,2,3 -n 8"
    if isinstance(llm, ReplayLLM):
        # The first asked for after what every recording begins with, if it is short.
        steps = [step for step in llm.recording.steps if step.length <= SHOWN_IN_COMMAND]
        prefix = ",".join(map(str, steps[2 if len(steps) > 2 else 0].prefix)) if steps else "0"
        prompt = f"--token-ids {prefix} --max-new-tokens 1"
    return f"seedbed generate {shown_source(source)} {prompt} --seed 7"


def command_again(**changes: Any) -> str:
    """The command under way as it would be typed, with some options changed (None leaves one out), and without the API key."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE} | set(changes)
    values = context.params | changes
    words = [f"seedbed {context.info_name}"]
    prompts = prompts_in_order(context)
    for option in context.command.get_params(context):
        name, value = option.name or "", values.get(option.name or "")
        if isinstance(option, click.Argument):
            words.append(shown_source(str(value)))
        elif option in dict(prompts) or name not in given or name == "api_key" or value is None or value is False:
            continue
        else:
            flag = spelling(option)
            words += [flag if value is True else f"{flag} {shown_source(str(each))}" for each in (value if option.multiple else [value])]
    return " ".join([*words, *typed_prompts(context)])


def typed_prompts(context: click.Context) -> list[str]:
    """The prompts of the command under way as they would be typed."""
    return [f"{spelling(option)} {shlex.quote(text)}" for option, text in prompts_in_order(context)]


def sampling_words(options: dict[str, Any]) -> str:
    """The options that say what is sampled, as they would be typed, for another command: how many, the seed, and what is no default."""
    defaults = {parameter.name: parameter.default for parameter in click.get_current_context().command.params}
    given = [name for name in ("max_new_tokens", "temperature", "top_k", "top_p", "min_p") if options[name] != defaults[name]]
    return " ".join([f"-n {options['n']} --seed {options['seed']}", *(f"--{name.replace('_', '-')} {options[name]}" for name in given)])
