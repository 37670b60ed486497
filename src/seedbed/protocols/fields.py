"""JSON off the wire, from either side: nothing in it is believed to be of the type it should be.

Rule: whatever a body holds, these functions return what they promise or raise one of seedbed's own errors.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from seedbed.errors import BadRequest, BrokenAnswer, DishonestAnswer, NonFiniteLogits, UsageError
from seedbed.protocols.exchange import HttpRequest, HttpResponse
from seedbed.protocols.refusal import refusal

if TYPE_CHECKING:
    from seedbed.protocols.exchange import Ask

__all__ = [
    "JSON",
    "as_count",
    "as_facts",
    "as_text",
    "as_version",
    "check_entries",
    "check_prompt_tokens",
    "count_in",
    "facts_in",
    "json_body",
    "json_request",
    "json_response",
    "listed_model",
    "loads",
    "model_of",
    "parse_json",
    "prompt_of",
    "text_in",
    "text_of",
    "token_ids_in",
    "token_ids_of",
    "tokens_asked",
]

JSON = (("content-type", "application/json"),)
_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?")

# The client's side: what a server sent, as far as it is what it should be.


def parse_json(response: HttpResponse) -> Any:
    """An answer's JSON.

    Raises:
        RequestRefused: the server said no.
        NonFiniteLogits: NaN or Infinity in it.
        BrokenAnswer: not JSON; quotes its beginning.
    """
    if response.status != 200:
        raise refusal(response)
    try:
        return loads(response.body)
    except orjson.JSONDecodeError as error:
        raise BrokenAnswer(f"the answer is not JSON ({error}); it begins {bytes(response.body[:60])!r}") from error


def loads(text: bytes | bytearray | memoryview) -> Any:
    """JSON; and -Infinity, which Python's own writer makes of it.

    Raises:
        NonFiniteLogits: NaN or Infinity in it, which that writes too.
        orjson.JSONDecodeError: not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        octets = bytes(text)
        if b"NaN" in octets or b"Infinity" in octets:
            with suppress(ValueError, RecursionError):
                return json.loads(octets, parse_constant=_constant)
        raise


def _constant(name: str) -> float:
    if name == "-Infinity":
        return -math.inf
    raise NonFiniteLogits(f"the server's answer holds {name}")


def text_in(response: HttpResponse, *names: str) -> str:
    """The text in a JSON answer, under the first of these names that it has.

    Raises:
        RequestRefused: the server said no.
        BrokenAnswer: no such field, or no text.
    """
    data = parse_json(response)
    value = next((data[name] for name in names if name in data), None) if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise BrokenAnswer(f"the answer has no text under {' or '.join(map(repr, names))}")
    return value


def token_ids_in(response: HttpResponse, name: str) -> list[int]:
    """The token ids in a JSON answer.

    Raises:
        RequestRefused: the server said no.
        BrokenAnswer: no such field, or no list of ids.
    """
    data = parse_json(response)
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, list) or not all(type(token_id) is int and token_id >= 0 for token_id in value):
        raise BrokenAnswer(f"the answer has no list of token ids under {name!r}")
    return value


def facts_in(response: HttpResponse) -> dict[str, Any]:
    """What a server tells of itself, as a JSON object; {} when it tells nothing of the kind, for discovery to go on.

    Raises:
        Unauthorized: it wants a key first, whatever it speaks.
    """
    if response.status == 401:
        raise refusal(response)
    if response.status != 200:
        return {}
    try:
        return as_facts(orjson.loads(response.body))
    except orjson.JSONDecodeError:
        return {}


def as_facts(value: object) -> dict[str, Any]:
    """What a server says is an object, if it is one; else {}."""
    return value if isinstance(value, dict) else {}


def as_count(value: object, least: int = 1) -> int | None:
    """What a server says is a number of things, if it is an int of ``least`` or more that numpy can hold; else None."""
    return value if type(value) is int and least <= value < 2**63 else None


def count_in(text: str) -> int | None:
    """The number that a header or another text is, if it is one of 0 or more in decimal digits that 63 bits hold; else None. Python
    itself takes blanks, signs and foreign digits for numbers, and refuses those of 4,300 digits with an error of its own.

    Example:
        >>> count_in("128"), count_in("+1"), count_in("1" * 5000)
        (128, None, None)
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def as_text(value: object) -> str:
    """What a server says is a text, if it is one; else ""."""
    return value if isinstance(value, str) else ""


def as_version(value: object) -> tuple[int, int, int]:
    """The release a version's text names; (0, 0, 0) when it names none.

    Example:
        >>> as_version("0.11.0rc2.dev5+g1a2b3c"), as_version("v1.2"), as_version("main")
        ((0, 11, 0), (1, 2, 0), (0, 0, 0))
    """
    found = _VERSION.match(as_text(value))
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


def listed_model(response: HttpResponse, model: str | None) -> dict[str, Any]:
    """One entry of ``GET /v1/models``, which all OpenAI-like servers have: the model of that name, or else the first that is no adapter."""
    listed = facts_in(response).get("data")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    named = [entry for entry in entries if model is not None and entry.get("id") == model]
    bases = [entry for entry in entries if not entry.get("parent")]
    return next(iter(named or bases), {})


def check_entries(listed: int, asked: int) -> None:
    """Whether as many tokens are listed as were asked for.

    Raises:
        DishonestAnswer: they are not.
    """
    if listed != asked:
        raise DishonestAnswer(f"{asked} tokens were asked for, {listed} are listed")


def check_prompt_tokens(ask: Ask, read: object) -> int | None:
    """How many tokens a server says it read, if it says.

    Raises:
        DishonestAnswer: not as many as were sent.
    """
    if read is None:
        return None
    if type(read) is not int or read != len(ask.token_ids):
        raise DishonestAnswer(
            f"{len(ask.token_ids)} tokens were sent, the server read {read!r:.40}: it adds a BOS token in front or cuts the prompt"
        )
    return read


# The server's side: what a client asked, as far as it can be asked.


def json_body(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """A request's JSON.

    Raises:
        BadRequest: not JSON, or not an object.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}", status=400) from error
    if not isinstance(data, dict):
        raise BadRequest("the request must be a JSON object", status=400)
    return data


def token_ids_of(data: Any, what: str) -> tuple[int, ...]:
    """Token ids out of a request's JSON.

    Raises:
        BadRequest: not a non-empty list of ints of 0 or more.
    """
    if not isinstance(data, list) or not data or not all(type(token_id) is int and 0 <= token_id < 2**63 for token_id in data):
        raise BadRequest(f"{what} must be a non-empty list of token ids, ints of 0 or more", status=400)
    return tuple(data)


def prompt_of(data: Any) -> Any:
    """What is to be one prompt, also where it is the only one in a list of several."""
    return data[0] if isinstance(data, list) and len(data) == 1 and isinstance(data[0], list) else data


def model_of(data: Any) -> str | None:
    """The model a request names; None when it names none, or something that is no name."""
    return data if isinstance(data, str) else None


def text_of(data: Any, what: str) -> str:
    """A text out of a request's JSON.

    Raises:
        BadRequest: no string.
    """
    if not isinstance(data, str):
        raise BadRequest(f"{what} must be a string", status=400)
    return data


def tokens_asked(data: dict[str, Any], limit: str, most: int = 1) -> int:
    """How many tokens a request asks for, whole: the servers in the box answer with few, and say so instead of doing less.

    Args:
        data: the request's JSON, or the part of it with the sampling parameters.
        limit: the protocol's name for the most tokens to generate.
        most: how many it may be.

    Raises:
        BadRequest: more tokens than that, several samples, or a stream.
    """
    asked = data.get(limit)
    if type(asked) is not int or not 0 <= asked <= most:
        few, number = ("one token", "1") if most == 1 else ("few tokens", f"an int up to {most}")
        raise BadRequest(f'this server answers with {few} a request: "{limit}" must be {number}', status=400)
    if data.get("stream") or data.get("n", 1) != 1:
        raise BadRequest('this server answers whole and once: no "stream", and "n" 1', status=400)
    return max(asked, 1)


def json_request(path: str, data: object, *headers: tuple[str, str]) -> HttpRequest:
    """A JSON request; numpy's ints are ints, too.

    Raises:
        UsageError: something in it is neither a number nor a text.
    """
    try:
        body = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise UsageError(f"the request cannot be written as JSON: {error}; token ids must be ints") from error
    return HttpRequest("POST", path, (*JSON, *headers), body)


def json_response(data: object, status: int = 200, *headers: tuple[str, str], content_type: str = "application/json") -> HttpResponse:
    """A JSON response. Float32 arrays are written in the shortest form that gives the same float32 back, -inf as null."""
    return HttpResponse(status, (("content-type", content_type), *headers), orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))
