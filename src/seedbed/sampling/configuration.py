"""A sampler to and from its repr, which is its whole configuration: so that what a recording says was sampled can be sampled again."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from seedbed.errors import InvalidSampler
from seedbed.sampling import processors
from seedbed.sampling.processors import Custom, Processor, StatefulProcessor
from seedbed.sampling.sampler import Sampler

__all__ = ["NAMED", "configuration_of", "sampler_from"]

# A function of the user's own cannot be named, and the interfaces are no processors themselves.
NAMED: dict[str, type[Processor]] = {
    name: value
    for name, value in vars(processors).items()
    if isinstance(value, type) and issubclass(value, Processor) and value not in (Processor, StatefulProcessor, Custom)
}


def configuration_of(sampler: Sampler) -> str:
    """The sampler's repr, less the memory addresses in the reprs of a user's own functions: the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(sampler))


def sampler_from(configuration: str) -> Sampler:
    """The sampler whose repr this is; nothing in it is executed.

    Raises:
        InvalidSampler: it is none, or holds a function of the user's own, which no text can bring back.

    Example:
        >>> sampler_from(repr(Sampler(0.8, top_p=0.95))) == Sampler(0.8, top_p=0.95)
        True
    """
    try:
        call = ast.parse(configuration, mode="eval").body
        if not isinstance(call, ast.Call) or _name(call) != "Sampler" or call.args:
            raise ValueError("it is no Sampler")
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        chain = given.pop("chain")
        if not isinstance(chain, ast.List):
            raise TypeError("its chain is no list")
        steps = [_processor(step) for step in chain.elts]
        return Sampler(chain=steps, **{str(name): ast.literal_eval(value) for name, value in given.items()})
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, InvalidSampler):
            raise
        raise InvalidSampler(f"no sampler can be made of {configuration:.80}: {error}") from error


def _processor(node: ast.expr) -> Processor:
    if not isinstance(node, ast.Call) or _name(node) not in NAMED:
        raise ValueError(f"{ast.unparse(node):.60} is no processor that a text can bring back")
    keywords: dict[str, Any] = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    return NAMED[_name(node)](*map(_value, node.args), **keywords)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name) and node.operand.id == "inf":
        return -math.inf
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(map(_value, node.elts))
    return ast.literal_eval(node)
