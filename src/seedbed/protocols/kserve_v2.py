"""The open inference protocol, as Triton and KServe speak it: ``POST /v2/models/M/infer``, tensors as octets.

::

    Inference-Header-Content-Length: octets of JSON
    {"inputs": [{"name", "shape", "datatype", "parameters": {"binary_data_size"}}],
     "outputs": [{"name", "parameters": {"binary_data": true}}]}              then the tensors in that order, little-endian, without gaps

The answer looks the same; without that header it is all JSON, with the numbers under "data". FP16 and BF16 cannot travel as JSON.

What the tensors are called is the model's own affair: ``Layout`` says which is which, discovery fills it in from the model's metadata,
and knows TensorRT-LLM's (``input_ids``, ``input_lengths``, ``request_output_len``; ``generation_logits``, ``output_ids``). Logits have
shape [1, V], [1, 1, V] or [1, n, V], of which the last position counts, or [1, 1, 1, V] with beams. A row may be longer than the
tokenizer's vocabulary, padded for tensor parallelism: give ``vocab_size=`` and it is cut.

There is no tokenizer, no end token and no context length to be asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote

import numpy as np
import orjson

from seedbed.errors import (
    BadRequest,
    BrokenAnswer,
    ContextOverflow,
    DishonestAnswer,
    FeatureOff,
    NonFiniteLogits,
    SeedbedError,
    UnknownModel,
    UsageError,
)
from seedbed.llm.base import ModelInfo, Row
from seedbed.protocols import bfloat16
from seedbed.protocols.base import Discovery, Protocol, check_ids_below
from seedbed.protocols.exchange import Answer, Ask, Describe, Health, HttpRequest, HttpResponse, Question
from seedbed.protocols.fields import (
    as_count,
    as_facts,
    as_text,
    count_in,
    facts_in,
    json_body,
    json_request,
    json_response,
    loads,
)
from seedbed.protocols.refusal import refusal, retry_after_header, status_for, told
from seedbed.protocols.rows import check_choice, full_row, numbers, token_id_array, top_logprobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seedbed.llm.base import LLM

__all__ = ["KServeV2", "Layout", "Tensor"]

OCTETS = "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"
INTEGERS = {"INT32": "<i4", "INT64": "<i8"}
FLOATS = {"FP32": "<f4", "FP16": "<f2", "BF16": "<u2", "FP64": "<f8"}
NO_JSON = ("FP16", "BF16")
UNKNOWN_VOCAB = 4_194_304
OCTETS_AN_ENTRY = {True: 8, False: 32}  # as octets (FP64 at most), as JSON


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model: its name there, and its type."""

    name: str
    datatype: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Which of a model's tensors is what.

    Attributes:
        token_ids: the input that takes the prompt.
        logits: the output with the row, or with one for each position.
        lengths: an input that wants the prompt's length, or None.
        output_length: an input that wants how many tokens to generate, or None.
        switches: boolean inputs to set.
        choice: an output with the token the server took, or None.
        batched: whether tensors have a batch axis in front.
        row_length: entries of a row, padding included; None when the metadata does not tell.
        every_position: whether there is a row for each position of the prompt.
        binary: whether the server sends tensors as octets.
    """

    token_ids: Tensor = Tensor("input_ids", "INT32")
    logits: Tensor = Tensor("logits", "FP32")
    lengths: Tensor | None = None
    output_length: Tensor | None = None
    switches: tuple[str, ...] = ()
    choice: Tensor | None = None
    batched: bool = True
    row_length: int | None = None
    every_position: bool = False
    binary: bool = True


@dataclass(frozen=True)
class KServeV2(Protocol):
    """See the module.

    Args:
        model: the model's name on the server; None asks the server, which must then have one.
        layout: which tensor is what; None reads it from the model's metadata. The server's half of None has ``Layout()``.
    """

    name = "kserve-v2"
    default_top_k = None
    whole_rows_only = True

    model: str | None = None
    layout: Layout | None = None

    # The client's half.

    def discover(self, model: str | None = None) -> Discovery:
        server = facts_in((yield HttpRequest("GET", "/v2")))
        extensions = server.get("extensions")
        if not as_text(server.get("name")) or not isinstance(extensions, list):
            return None
        name = model or self.model
        if name is None:
            name = _only_model(_listed((yield json_request("/v2/repository/index", {}))))
        response = yield HttpRequest("GET", _path(name))
        if response.status != 200:
            raise refusal(response)
        metadata = facts_in(response)
        layout = self.layout or _layout_of(name, metadata)
        layout = replace(layout, binary=layout.binary and "binary_tensor_data" in extensions)
        versions = metadata.get("versions")
        return replace(self, model=name, layout=layout), ModelInfo(
            model=name,
            server=f"{server['name']} {as_text(server.get('version'))}".rstrip(),
            fingerprint=" ".join(map(as_text, versions)) if isinstance(versions, list) else "",
            vocab_size=layout.row_length,
            protocol=self.name,
            kind="logits",
        )

    def encode_request(self, ask: Ask, info: ModelInfo) -> HttpRequest:
        layout = self.layout or Layout()
        dtype = INTEGERS[layout.token_ids.datatype]
        limit = min(info.vocab_size or layout.row_length or 2**63, np.iinfo(dtype).max + 1)
        check_ids_below(limit, ask.token_ids, f" is outside the vocabulary of {limit}")
        ids = np.array(ask.token_ids, dtype)
        n, one = len(ask.token_ids), (1,) if layout.batched else ()
        inputs: list[tuple[Tensor, list[int], NDArray[Any]]] = [(layout.token_ids, [*one, n], ids)]
        for tensor, value in ((layout.lengths, n), (layout.output_length, 1)):
            if tensor is not None:
                inputs.append((tensor, [*one, 1], np.array([value], INTEGERS[tensor.datatype])))
        inputs += [(Tensor(switch, "BOOL"), [*one, 1], np.array([True])) for switch in layout.switches]
        wanted = [layout.logits] + ([layout.choice] if layout.choice else [])
        outputs = [{"name": tensor.name, "parameters": {"binary_data": layout.binary}} for tensor in wanted]
        path = f"{_path(ask.model or self.model or info.model)}/infer"
        return HttpRequest("POST", path, *_message({"outputs": outputs}, "inputs", inputs, layout.binary))

    def decode_response(self, ask: Ask, info: ModelInfo, response: HttpResponse) -> Answer:
        if response.status != 200:
            raise refusal(response)
        layout = self.layout or Layout()
        tensors = _tensors(response.body, response.header(HEADER_LENGTH), "outputs", BrokenAnswer)
        row = _row_of(tensors, layout, ask, info)
        chosen = None
        if layout.choice is not None:
            chosen = check_choice(_choice_of(tensors, layout.choice.name, ask), row)
        return Answer(row if ask.top_k is None else top_logprobs(row, ask.top_k), chosen)

    def answer_bound(self, ask: Ask, info: ModelInfo) -> int:
        layout = self.layout or Layout()
        rows = len(ask.token_ids) if layout.every_position else 1
        return 65_536 + (layout.row_length or info.vocab_size or UNKNOWN_VOCAB) * rows * OCTETS_AN_ENTRY[layout.binary]

    def encode_tokenize(self, text: str) -> HttpRequest:
        _no_tokenizer()

    def decode_tokens(self, response: HttpResponse) -> list[int]:
        _no_tokenizer()

    def encode_detokenize(self, token_ids: list[int]) -> HttpRequest:
        _no_tokenizer()

    def decode_text(self, response: HttpResponse) -> str:
        _no_tokenizer()

    # The server's half.

    def decode_request(self, request: HttpRequest) -> Question | None:
        parts = request.route.removesuffix("/").split("/")
        if request.method == "GET" and request.route == "/health":
            return Health()  # not Triton's; but every server in the box has it
        if len(parts) < 2 or parts[:2] != ["", "v2"]:
            return None
        match request.method, parts[2:]:
            case "GET", []:
                return Describe("/v2")
            case "POST", ["repository", "index"]:
                return Describe("/v2/repository/index")
            case "GET", ["health", "live" | "ready"]:
                return Health()
            case "GET", ["models", _, "ready"]:
                return Health()
            case "GET", ["models", _] | ["models", _, "config"]:
                return Describe(request.route)
            case "POST", ["models", model, "infer"] | ["models", model, "versions", _, "infer"]:
                return self._ask_from(unquote(model), request)
        return None

    def _ask_from(self, model: str, request: HttpRequest) -> Ask:
        layout = self.layout or Layout()
        try:
            tensors = _tensors(request.body, request.header(HEADER_LENGTH), "inputs", _bad_request)
        except NonFiniteLogits as error:  # of the client's, where those of an answer are the model's
            raise _bad_request("the inputs hold NaN, null, or a number beyond float32") from error
        for tensor in filter(None, (layout.token_ids, layout.lengths, layout.output_length)):
            if tensor.name not in tensors:
                raise BadRequest(f"expected an input {tensor.name!r}", status=400)
            if tensors[tensor.name][0] != tensor.datatype:
                raise BadRequest(f"input {tensor.name!r} must be {tensor.datatype}", status=400)
        ids = tensors[layout.token_ids.name][1]
        if ids.size != ids.shape[-1] or not ids.size or ids.min() < 0:
            raise BadRequest(f"input {layout.token_ids.name!r} must hold one prompt of token ids of 0 or more, not {ids.shape}", status=400)
        for given, want in ((layout.lengths, ids.size), (layout.output_length, 1)):
            if given is not None and tensors[given.name][1].ravel().tolist() != [want]:
                raise BadRequest(f"input {given.name!r} must be {want}", status=400)
        return Ask(tuple(ids.ravel().tolist()), None, model)

    def encode_row(self, ask: Ask, request: HttpRequest, row: Row, llm: LLM) -> HttpResponse:
        layout, dense = self.layout or Layout(), full_row(row)
        asked = _outputs_asked(request)
        known = {layout.logits.name: layout.logits} | ({layout.choice.name: layout.choice} if layout.choice else {})
        outputs: list[tuple[Tensor, list[int], NDArray[Any]]] = []
        octets = set()
        for name, binary in (asked or dict.fromkeys(known, False)).items():
            tensor = known.get(name)
            if tensor is None:
                raise BadRequest(f"unexpected inference output {name!r} for model {ask.model!r}", status=400)
            if tensor is layout.choice:
                outputs.append((tensor, [1, 1, 1], np.array([int(np.argmax(dense))], INTEGERS[tensor.datatype])))
            else:
                if not binary and (tensor.datatype in NO_JSON or not np.isfinite(dense).all()):
                    what = tensor.datatype if tensor.datatype in NO_JSON else "-inf"
                    raise BadRequest(f"{what} cannot travel as JSON: ask for binary_data", status=400)
                outputs.append((tensor, [1, 1, dense.size], _narrowed(dense, tensor.datatype)))
            if binary:
                octets.add(name)
        head: dict[str, Any] = {"model_name": ask.model, "model_version": "1"}
        return HttpResponse(200, *_message(head, "outputs", outputs, octets))

    def encode_description(self, question: Describe, info: ModelInfo, llm: LLM) -> HttpResponse:
        layout, model = self.layout or Layout(), info.model or "lm"
        if question.path == "/v2":
            name, _, version = info.server.rpartition(" ")
            return json_response({"name": name or "seedbed", "version": version, "extensions": ["binary_tensor_data", "model_repository"]})
        if question.path == "/v2/repository/index":
            return json_response([{"name": model, "version": "1", "state": "READY"}])
        asked = unquote(question.path.split("/")[3])
        if asked != model:
            raise UnknownModel(f"Request for unknown model: {asked!r} is not found", status=404)
        inputs = [(layout.token_ids, [-1, -1]), (layout.lengths, [-1, 1]), (layout.output_length, [-1, 1])]
        inputs += [(Tensor(switch, "BOOL"), [-1, 1]) for switch in layout.switches]
        outputs = [(layout.logits, [-1, 1, info.vocab_size or -1]), (layout.choice, [-1, -1, -1])]
        return json_response(
            {
                "name": model,
                "versions": info.fingerprint.split(" ") if info.fingerprint else ["1"],
                "platform": "seedbed",
                "max_batch_size": 1,
                "inputs": [{"name": t.name, "datatype": t.datatype, "shape": shape} for t, shape in inputs if t],
                "outputs": [{"name": t.name, "datatype": t.datatype, "shape": shape} for t, shape in outputs if t],
            }
        )

    def encode_tokens(self, token_ids: list[int]) -> HttpResponse:
        _no_tokenizer()

    def encode_text(self, text: str) -> HttpResponse:
        _no_tokenizer()

    def encode_health(self) -> HttpResponse:
        return HttpResponse(200)

    def encode_error(self, error: SeedbedError) -> HttpResponse:
        status, text = status_for(error), told(error)
        if isinstance(error, ContextOverflow):
            text = f"the prompt is longer than the model's context length: {text}"
        return json_response({"error": text}, status, *retry_after_header(error))


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _no_tokenizer() -> NoReturn:
    raise UsageError("kserve-v2 has no tokenizer: give token ids instead of text")


def _bad_request(message: str) -> BadRequest:
    return BadRequest(message, status=400)


# What a server has.


def _listed(response: HttpResponse) -> list[str]:
    """The names of the models that a repository index lists as ready, or without saying."""
    try:
        entries = orjson.loads(response.body) if response.status == 200 else []
    except orjson.JSONDecodeError:
        entries = []
    facts = [as_facts(entry) for entry in entries] if isinstance(entries, list) else []
    return list(dict.fromkeys(as_text(f.get("name")) for f in facts if f.get("state", "READY") in ("READY", "") and as_text(f.get("name"))))


def _only_model(names: list[str]) -> str:
    """Raises UsageError: there are several, or the server does not list them."""
    if "tensorrt_llm" in names:  # the others are its tokenizer, and it behind that
        return "tensorrt_llm"
    if len(names) != 1:
        raise UsageError(f"say which model is meant with model=: the server lists {', '.join(names) or 'none'}")
    return names[0]


def _layout_of(model: str, metadata: dict[str, Any]) -> Layout:
    """Raises UsageError: the tensors' names and types do not say which is what."""
    inputs, outputs = _declared(metadata.get("inputs")), _declared(metadata.get("outputs"))
    integers = [name for name, (datatype, _) in inputs.items() if datatype in INTEGERS]
    floats = [name for name, (datatype, _) in outputs.items() if datatype in FLOATS]
    if {"input_ids", "input_lengths", "request_output_len"} <= set(integers):
        ids, lengths, output_length = "input_ids", "input_lengths", "request_output_len"
        logits = "generation_logits" if "generation_logits" in floats else "context_logits"
        switches = [name for name in (f"return_{logits}", "exclude_input_in_output") if inputs.get(name, ("", []))[0] == "BOOL"]
        rest: list[str] = []
    else:
        ids = integers[0] if len(integers) == 1 else "input_ids"
        lengths = next((name for name in integers if name != ids and "length" in name.lower()), "")
        logits, output_length, switches = floats[0] if len(floats) == 1 else "logits", "", []
        rest = [name for name in inputs if name not in (ids, lengths)]
    if ids not in integers or logits not in floats or rest:
        raise UsageError(
            f"which tensors of model {model!r} are the token ids and the logits? It has inputs {', '.join(inputs) or 'none'} and outputs "
            f"{', '.join(outputs) or 'none'}: say so with KServeV2(layout=Layout(...))"
        )
    shape = outputs[logits][1]
    choice = outputs.get("output_ids") if output_length else None
    return Layout(
        token_ids=Tensor(ids, inputs[ids][0]),
        logits=Tensor(logits, outputs[logits][0]),
        lengths=Tensor(lengths, inputs[lengths][0]) if lengths else None,
        output_length=Tensor(output_length, inputs[output_length][0]) if output_length else None,
        switches=tuple(switches),
        choice=Tensor("output_ids", choice[0]) if choice and choice[0] in INTEGERS else None,
        batched=len(inputs[ids][1]) != 1,
        row_length=as_count(shape[-1]) if shape else None,
        every_position=len(shape) == 3 and shape[1] == -1,
    )


def _declared(tensors: object) -> dict[str, tuple[str, list[Any]]]:
    """Datatype and shape of each tensor a model declares, by name."""
    found = {}
    for tensor in tensors if isinstance(tensors, list) else []:
        facts = as_facts(tensor)
        shape = facts.get("shape")
        if as_text(facts.get("name")):
            found[as_text(facts.get("name"))] = (as_text(facts.get("datatype")), shape if isinstance(shape, list) else [])
    return found


# Tensors as octets and as JSON.


def _message(
    head: dict[str, Any], kind: str, tensors: list[tuple[Tensor, list[int], NDArray[Any]]], binary: bool | set[str]
) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Headers and body of a request or response: the tensors as octets if ``binary``, or if it has their name."""
    described: list[dict[str, Any]] = []
    octets = []
    for tensor, shape, values in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
        if binary is True or (binary and tensor.name in binary):
            octets.append(values.tobytes())
            entry["parameters"] = {"binary_data_size": len(octets[-1])}
        else:
            entry["data"] = values.tolist()
        described.append(entry)
    text = orjson.dumps(head | {kind: described})
    if not octets:
        return (("content-type", "application/json"),), text
    return (("content-type", OCTETS), (HEADER_LENGTH, str(len(text)))), b"".join((text, *octets))


def _tensors(
    body: bytes | bytearray | memoryview, header_length: str | None, kind: str, error: Callable[[str], SeedbedError]
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Datatype and values of each tensor in a message, by name; in its type, BF16 as float32.

    Raises:
        error: the message contradicts itself: sizes, shapes, types, or octets that belong to no tensor.
        NonFiniteLogits: null among numbers in JSON.
    """
    described, octets = _parts(memoryview(body), header_length, kind, error)
    found: dict[str, tuple[str, NDArray[Any]]] = {}
    for entry in described:
        name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
        if not isinstance(name, str) or name in found:
            raise error(f"a tensor's name is {name!r:.40}, or stands twice")
        if not isinstance(datatype, str):
            raise error(f"the datatype of {name!r:.40} is {datatype!r:.40}")
        if not isinstance(shape, list) or not shape or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise error(f"the shape of {name!r:.40} is {shape!r:.40}")
        size = as_facts(entry.get("parameters")).get("binary_data_size")
        if size is None:
            values = _from_json(entry.get("data"), datatype, name, error)
        elif type(size) is not int or not 0 <= size <= len(octets):
            raise error(f"{name!r:.40} is said to have {size!r:.40} octets, there are {len(octets)}")
        else:
            values, octets = _from_octets(octets[:size], datatype, name, error), octets[size:]
        if values.size != math.prod(shape):
            raise error(f"{name!r:.40} has {values.size} values, its shape is {shape!r:.40}")
        try:
            found[name] = (datatype, values.reshape(shape))
        except ValueError as problem:  # too many dimensions, or none of a size that numpy has
            raise error(f"the shape of {name!r:.40} is {shape!r:.40}: {problem}") from problem
    if octets:
        raise error(f"{len(octets)} octets belong to no tensor")
    return found


def _parts(
    body: memoryview, header_length: str | None, kind: str, error: Callable[[str], SeedbedError]
) -> tuple[list[dict[str, Any]], memoryview]:
    """What a message's JSON says of its tensors, and the octets that follow it."""
    text, octets = body, body[:0]
    if header_length is not None:
        length = count_in(header_length)
        if length is None:
            raise error(f"Inference-Header-Content-Length is {header_length!r:.40}")
        text, octets = body[:length], body[length:]
    try:
        data = loads(text)
    except orjson.JSONDecodeError as problem:
        raise error(f"the JSON is none ({problem}); it begins {bytes(text[:60])!r}") from problem
    described = data.get(kind) if isinstance(data, dict) else None
    if not isinstance(described, list) or not all(isinstance(entry, dict) for entry in described):
        raise error(f"there are no {kind}")
    return described, octets


def _from_octets(octets: memoryview, datatype: str, name: str, error: Callable[[str], SeedbedError]) -> NDArray[Any]:
    dtype = INTEGERS.get(datatype) or FLOATS.get(datatype)
    if dtype is None:  # a tensor we do not read; of a BOOL this is its value, too
        return np.frombuffer(octets, np.uint8)
    if len(octets) % np.dtype(dtype).itemsize:
        raise error(f"{len(octets)} octets of {name!r:.40} are no {datatype}")
    values = np.frombuffer(octets, dtype)
    return bfloat16.widened(values) if datatype == "BF16" else values


def _from_json(data: object, datatype: str, name: str, error: Callable[[str], SeedbedError]) -> NDArray[Any]:
    """Flat or nested lists of numbers."""
    flat: list[Any] = []
    levels: list[Any] = [data]
    if not isinstance(data, list):
        raise error(f"{name!r:.40} has neither octets nor data")
    while levels:
        value = levels.pop()
        if isinstance(value, list):
            levels.extend(reversed(value))
        else:
            flat.append(value)
    try:
        if datatype in INTEGERS:
            return token_id_array(flat)
        if datatype == "BOOL":
            return np.array([bool(value) for value in flat])
        return numbers(flat, lowest=-math.inf)
    except BrokenAnswer as problem:
        raise error(f"{name!r:.40}: {problem}") from problem


def _narrowed(row: NDArray[np.float32], datatype: str) -> NDArray[Any]:
    """A row in the type a model declares: rounded to nearest, ties to even."""
    if datatype != "BF16":
        with np.errstate(over="ignore"):
            return row.astype(FLOATS[datatype])
    return bfloat16.narrowed(row)


# Rows.


def _row_of(tensors: dict[str, tuple[str, NDArray[Any]]], layout: Layout, ask: Ask, info: ModelInfo) -> NDArray[np.float32]:
    """The last position's row, cut to the vocabulary if it is padded."""
    if layout.logits.name not in tensors:
        raise BrokenAnswer(f"the answer has no output {layout.logits.name!r}; it has {', '.join(tensors) or 'none'}")
    datatype, logits = tensors[layout.logits.name]
    if datatype not in FLOATS:
        raise BrokenAnswer(f"the output {layout.logits.name!r} is {datatype}, and no logits")
    if not logits.size:
        raise FeatureOff(
            f"the output {layout.logits.name!r} is empty: build the engine with --gather_{layout.logits.name}",
            status=200,
            flag=f"--gather_{layout.logits.name}",
        )
    length = logits.shape[-1]
    positions = logits.size // length
    if positions not in (1, len(ask.token_ids)):
        raise DishonestAnswer(f"{len(ask.token_ids)} tokens were sent, the answer has rows for {positions}: shape {list(logits.shape)}")
    want = layout.row_length or info.vocab_size or length
    if length != want or length < (info.vocab_size or 0):
        raise DishonestAnswer(f"the row has {length} entries, the model declares {want} and the vocabulary has {info.vocab_size}")
    with np.errstate(over="ignore"):
        return logits.reshape(positions, length)[-1, : info.vocab_size].astype(np.float32, copy=False)


def _choice_of(tensors: dict[str, tuple[str, NDArray[Any]]], name: str, ask: Ask) -> int:
    """The first token generated, whether or not the prompt stands in front of it."""
    datatype, ids = tensors.get(name, ("", np.empty(0)))
    n = len(ask.token_ids)
    if datatype not in INTEGERS or ids.size not in (1, n + 1):
        raise DishonestAnswer(f"one token was asked for, the output {name!r} has {ids.size}")
    if ids.size == n + 1 and n and tuple(ids.ravel()[:n].tolist()) != ask.token_ids:
        raise DishonestAnswer(f"the output {name!r} begins with another prompt than was sent")
    return int(ids.ravel()[-1])


def _outputs_asked(request: HttpRequest) -> dict[str, bool]:
    """Which outputs a request asks for, and which of them as octets."""
    length = count_in(request.header(HEADER_LENGTH) or "")
    data = json_body(request.body[:length])
    every = as_facts(data.get("parameters")).get("binary_data_output") is True
    outputs = data.get("outputs")
    facts = [as_facts(output) for output in outputs] if isinstance(outputs, list) else []
    return {as_text(f.get("name")): as_facts(f.get("parameters")).get("binary_data", every) is True for f in facts}
