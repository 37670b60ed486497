"""What clients and servers other than ours say to a protocol, rightly and wrongly: said in ``fixtures/wire/spoken`` beside our own words.

Each question is answered by a model that tells all of itself; those in ``RIGHT`` also by one that tells nothing.
"""

from __future__ import annotations

from typing import Any

import orjson

from seedbed.protocols.exchange import HttpRequest, HttpResponse

__all__ = ["ANSWERS", "RIGHT", "SAMPLED", "SCORED", "WRONG"]

Questions = dict[str, list[HttpRequest]]
Answers = dict[str, list[HttpResponse]]


def get(*paths: str) -> list[HttpRequest]:
    return [HttpRequest("GET", path) for path in paths]


def post(path: str, *bodies: object) -> list[HttpRequest]:
    return [HttpRequest("POST", path, (), orjson.dumps(body)) for body in bodies]


def ok(*bodies: object) -> list[HttpResponse]:
    return [HttpResponse(200, (), orjson.dumps(body)) for body in bodies]


# The parameters of a server's own draws, each outside its range, by one where it is a number of things; then at the edges of them all.
NO_DRAWS: list[dict[str, Any]] = [
    {"temperature": 100.5},
    {"temperature": -0.5},
    {"temperature": "hot"},
    {"top_p": 1.5},
    {"min_p": True},
    {"top_k": -2},
    {"top_k": 2**31 + 1},
    {"top_k": 2.0},
    {"n": 65},
    {"n": 0},
    {"stream": True},
]
EDGES = {"temperature": 100, "top_p": 1, "min_p": 0, "top_k": 2**31, "n": 2}


def no_seeds(name: str) -> list[dict[str, Any]]:
    return [{name: -1}, {name: 2**63 + 1}, {name: None}]


def no_lengths(name: str) -> list[dict[str, Any]]:
    return [{name: 0}, {name: 65}]


LLAMA = {"prompt": [1, 4], "n_predict": 1, "n_probs": 3}
LLAMA_DRAWS = {"prompt": [1], "return_tokens": True}
VLLM = {"prompt": [1, 4], "max_tokens": 1, "logprobs": 3}
VLLM_DRAWS = {"prompt": [1], "return_token_ids": True}
GENERATE = {"token_ids": [1, 4], "sampling_params": {"max_tokens": 1, "logprobs": 3}}
SGLANG = {"input_ids": [1, 4], "sampling_params": {"max_new_tokens": 1}, "return_logprob": True, "top_logprobs_num": 3}
SGLANG_DRAWS = {"input_ids": [1], "sampling_params": {"sampling_seed": 5}}
IDS = {"name": "input_ids", "datatype": "INT32", "shape": [1, 2], "data": [1, 4]}
BINARY = [{"name": "logits", "parameters": {"binary_data": True}}]


def generate_with(**sampling: object) -> dict[str, object]:
    return {"token_ids": [1], "sampling_params": {"seed": 5, **sampling}}


def sglang_with(**sampling: object) -> dict[str, object]:
    return {"input_ids": [1], "sampling_params": {"sampling_seed": 5, **sampling}}


RIGHT: Questions = {
    "native": [
        *get("/v1/model", "/health"),
        *post("/v1/next_token_logits", {"token_ids": [1, 4]}, {"token_ids": [1], "top_k": 2, "ahead": 100}),
    ],
    "llama.cpp": [
        *get("/props", "/v1/models", "/models", "/health", "/v1/health"),
        *post(
            "/completion",
            LLAMA,
            LLAMA | {"n_predict": 3, "return_tokens": True},
            LLAMA | {"prompt": [[1, 4]], "response_fields": ["tokens", "timings/cache_n", "prompt/x", 5, ""]},
            LLAMA | {"prompt": [1, 3, 3], "logit_bias": [[4, 1000]]},
            LLAMA | {"n_predict": 2, "response_fields": "tokens"},
            LLAMA | {"n_predict": 0, "model": 5},
            LLAMA | {"logit_bias": [[0, 1000]]},
            LLAMA | {"logit_bias": [[-1, 1000]]},
            LLAMA | {"logit_bias": [["4", 1000]]},
            LLAMA | {"logit_bias": [[5, 1000.0]]},
            LLAMA | {"logit_bias": [[4, 999]]},
            LLAMA_DRAWS,
            LLAMA_DRAWS | EDGES | {"seed": 2**63, "n_predict": 64},
            LLAMA_DRAWS | {"top_k": -1},
        ),
        *post("/completions", LLAMA),
        *post("/tokenize", {"content": "a", "prompt": "b"}),
    ],
    "vllm": [
        *get("/version", "/v1/models", "/health", "/ping"),
        *post(
            "/v1/completions",
            VLLM,
            VLLM | {"logprobs": 0, "max_tokens": 3, "return_token_ids": True},
            VLLM | {"prompt": [[1, 4]], "logprobs": -1, "return_tokens_as_token_ids": True, "model": "m"},
            VLLM | {"prompt_logprobs": 1},
            VLLM | {"prompt_logprobs": 1, "prompt": [1, 5]},
            VLLM_DRAWS,
            VLLM_DRAWS | EDGES | {"temperature": 2, "seed": 2**63, "max_tokens": 64},
            VLLM_DRAWS | {"top_k": -1},
        ),
    ],
    "vllm-raw-logits": post("/v1/completions", VLLM, VLLM | {"prompt_logprobs": 1}, VLLM | {"prompt_logprobs": 1, "prompt": [1, 5]}),
    "vllm-generate": [
        *get("/version", "/v1/models", "/health"),
        *post(
            "/inference/v1/generate",
            GENERATE,
            {"token_ids": [1], "sampling_params": {"max_tokens": 3, "logprobs": 1}, "model": "m"},
            generate_with(),
            generate_with(logprobs=1, max_tokens=1),
            generate_with(**EDGES | {"temperature": 2, "max_tokens": 64}),
        ),
    ],
    "sglang": [
        *get("/model_info", "/get_model_info", "/server_info", "/v1/models", "/health", "/ready", "/ping"),
        *post(
            "/generate",
            SGLANG,
            SGLANG | {"input_ids": [[1, 4]], "return_flat_raw_output_top_logprobs": True},
            SGLANG | {"sampling_params": {"max_new_tokens": 1, "sampling_seed": 5}},
            SGLANG_DRAWS,
            sglang_with(**EDGES, max_new_tokens=64),
        ),
    ],
    "kserve-v2": [
        *get(
            "/v2",
            "/v2/",
            "/v2/models/m",
            "/v2/models/lm",
            "/v2/models/Told",
            "/v2/models/m/config",
            "/v2/models/m/ready",
            "/v2/health/live",
            "/health",
        ),
        *post("/v2/repository/index", {}),
        *post(
            "/v2/models/m/infer",
            {"inputs": [IDS], "outputs": BINARY},
            {"inputs": [IDS], "parameters": {"binary_data_output": True}, "outputs": [{"name": "logits"}]},
        ),
        *post("/v2/models/m/versions/1/infer/", {"inputs": [IDS], "outputs": BINARY}),
    ],
}

WRONG: Questions = {
    "native": post(
        "/v1/next_token_logits",
        [],
        {},
        {"token_ids": []},
        {"token_ids": [True]},
        {"token_ids": [1], "top_k": 0},
        {"token_ids": [1], "top_k": True},
        {"token_ids": [1], "model": 5},
        {"token_ids": [1], "ahead": 0},
        {"token_ids": [1], "ahead": "2"},
        {"token_ids": [1], "ahead": 2, "drawing": {}},
    )
    + post("/v1/tokenize", {"text": 5})
    + post("/v1/detokenize", {"token_ids": [-1]}),
    "llama.cpp": post(
        "/completion",
        LLAMA | {"prompt": "text"},
        LLAMA | {"n_predict": 65},
        LLAMA | {"n_predict": True},
        LLAMA | {"n_predict": -1},
        LLAMA | {"stream": True},
        LLAMA | {"n": 2},
        LLAMA | {"n_probs": "3"},
        LLAMA | {"n_probs": 0},
        {"prompt": [1], "n_predict": 1},
        LLAMA | {"post_sampling_probs": True},
        LLAMA_DRAWS | {"prompt": []},
        *(LLAMA_DRAWS | wrong for wrong in [*NO_DRAWS, *no_seeds("seed"), *no_lengths("n_predict")]),
    )
    + post("/tokenize", {"content": 5}, {"prompt": "x"})
    + post("/detokenize", {"tokens": [-1]}),
    "vllm": post(
        "/v1/completions",
        VLLM | {"prompt": "text"},
        VLLM | {"max_tokens": 65},
        VLLM | {"n": 2},
        VLLM | {"logprobs": None},
        VLLM | {"logprobs": -2},
        VLLM | {"logit_bias": {"5": 1, "-1": 1, "7": 1}},
        VLLM | {"logit_bias": {"4": 1}},
        VLLM | {"logit_bias": [4]},
        VLLM | {"prompt_logprobs": "1"},
        VLLM | {"prompt_logprobs": 1, "prompt": "text"},
        VLLM | {"prompt_logprobs": 1, "prompt": [1, 5]},
        VLLM_DRAWS | {"prompt": []},
        *(VLLM_DRAWS | wrong for wrong in [*NO_DRAWS, *no_seeds("seed"), *no_lengths("max_tokens")]),
    )
    + post("/tokenize", {"prompt": 5})
    + post("/detokenize", {"tokens": [-1]}),
    "vllm-generate": post(
        "/inference/v1/generate",
        {"token_ids": [1]},
        GENERATE | {"token_ids": "x"},
        GENERATE | {"stream": True},
        {"token_ids": [1], "sampling_params": {"max_tokens": 65, "logprobs": 1}},
        {"token_ids": [1], "sampling_params": {"max_tokens": 1}},
        {"token_ids": [1], "sampling_params": {"max_tokens": 1, "logprobs": 1, "logit_bias": {"5": 1}}},
        {"token_ids": ["x"], "sampling_params": {"seed": 5}},
        generate_with(top_p=2),
    )
    + post("/v1/completions", VLLM),
    "sglang": post(
        "/generate",
        SGLANG | {"input_ids": "x"},
        SGLANG | {"sampling_params": [1]},
        SGLANG | {"sampling_params": {"max_new_tokens": 2}},
        SGLANG | {"stream": True},
        SGLANG | {"top_logprobs_num": 0},
        SGLANG | {"top_logprobs_num": True},
        SGLANG | {"return_logprob": False},
        SGLANG | {"token_ids_logprob": [5]},
        SGLANG | {"token_ids_logprob": [-1]},
        SGLANG | {"token_ids_logprob": [0, 4]},
        SGLANG | {"token_ids_logprob": ["x", 4]},
        SGLANG | {"token_ids_logprob": 5},
        SGLANG_DRAWS | {"input_ids": "x"},
        SGLANG_DRAWS | {"stream": True},
        *(sglang_with(**wrong) for wrong in [*NO_DRAWS[:-1], *no_seeds("sampling_seed"), *no_lengths("max_new_tokens")]),
    )
    + post("/tokenize", {"prompt": 5})
    + post("/detokenize", {"tokens": [-1]}),
    "kserve-v2": [
        *get("/v2/models/other"),
        *post(
            "/v2/models/m/infer",
            {},
            {"inputs": [IDS]},
            {"inputs": [IDS | {"name": "ids"}]},
            {"inputs": [IDS | {"datatype": "INT64"}]},
            {"inputs": [IDS | {"shape": [2, 1]}]},
            {"inputs": [IDS | {"data": [1, -4]}]},
            {"inputs": [IDS | {"data": [], "shape": [1, 0]}]},
            {"inputs": [IDS, {"name": "x", "datatype": "FP32", "shape": [1], "data": [None]}]},
            {"inputs": [IDS], "outputs": [{"name": "probabilities"}]},
        ),
        HttpRequest("POST", "/v2/models/m/infer", (("inference-header-content-length", "x"),), b"{}"),
    ],
    "kserve-v2-tensorrt-llm": post(
        "/v2/models/m/infer",
        {"inputs": [IDS]},
        {
            "inputs": [
                IDS,
                {"name": "input_lengths", "datatype": "INT32", "shape": [1, 1], "data": [3]},
                {"name": "request_output_len", "datatype": "INT32", "shape": [1, 1], "data": [1]},
            ]
        },
        {
            "inputs": [
                IDS,
                {"name": "input_lengths", "datatype": "INT32", "shape": [1, 1], "data": [2]},
                {"name": "request_output_len", "datatype": "INT32", "shape": [1, 1], "data": [2]},
            ]
        },
    ),
}

STEP = {
    "id": 2,
    "logprob": -0.5,
    "top_logprobs": [{"id": 2, "logprob": -0.5}, {"id": 0, "logprob": -1.75}, {"id": 4, "logprob": -2.5}],
}
LISTED = [[-0.5, 2, None], [-1.75, 0, None], [-2.5, 4, None]]
TAKEN = {"output_token_logprobs": [[-0.5, 2, None]]}
ABORTED = {"meta_info": {"finish_reason": {"type": "abort", "message": "the queue is full", "status_code": 503}}}
FLAT = {"output_top_logprobs_idx_flat": [2, 0, 4], "output_top_logprobs_val_flat": [-0.5, -1.75, -2.5]}
SHAPE = {"output_top_logprobs_shape": [1, 3]}
OCTETS = {"output_top_logprobs_val_flat_b64": "AAAAAA==", "output_top_logprobs_idx_flat_b64": "AAAAAA=="}
ROW = {"name": "logits", "datatype": "FP32", "shape": [1, 1, 5], "data": [0.5, -1.0, 2.0, -3.0, 0.25]}
CHOICE = {"top_logprobs": [{"token_id:2": -0.5, "token_id:0": -1.75, "token_id:4": -2.5}], "tokens": ["token_id:2"]}

# Answers to the three best tokens, or in kserve-v2 to the whole row, after the tokens 1 and 4.
ANSWERS: Answers = {
    "native": [
        *ok([], {"logits": []}, {"ahead": {"proposed": [2]}}, {"top": {"token_ids": [2], "logprobs": [-0.25]}}),
        HttpResponse(200, (("content-type", "application/octet-stream"),), bytes(20)),
        HttpResponse(200, (("content-type", "application/octet-stream"), ("seedbed-dtype", "float32")), bytes(21)),
        HttpResponse(200, (("content-type", "application/octet-stream"), ("seedbed-dtype", "float32"), ("seedbed-rows", "2")), bytes(20)),
        HttpResponse(200, (("content-type", "application/octet-stream"), ("seedbed-dtype", "float32")), bytes(20)),
    ],
    "llama.cpp": ok(
        [],
        [1, 2],
        {},
        {"tokens": [], "tokens_evaluated": 2},
        {"tokens": [], "tokens_evaluated": 2, "tokens_cached": 2, "timings/cache_n": 0},
        {"completion_probabilities": []},
        {"completion_probabilities": [STEP, STEP]},
        [{"completion_probabilities": [STEP], "tokens_evaluated": 2, "timings/cache_n": 1}],
    ),
    "vllm": ok(
        {},
        {"choices": [{"logprobs": CHOICE}, {}]},
        {"choices": [{"logprobs": CHOICE}], "usage": {"prompt_tokens": 3}},
        {"choices": [{"logprobs": CHOICE}], "usage": {"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}},
        {"choices": [{"logprobs": {"top_logprobs": [{"a": -0.25}], "tokens": ["a"]}}]},
    ),
    "vllm-generate": ok({}, {"choices": [{"token_ids": [3], "logprobs": {"content": []}}]}),
    "sglang": ok(
        [],
        {},
        {"meta_info": {"output_top_logprobs": [LISTED]}},
        {"meta_info": {"output_top_logprobs": [LISTED], **TAKEN}},
        {"meta_info": {"output_top_logprobs": [LISTED], **TAKEN}, "output_ids": [3]},
        {"meta_info": {"output_top_logprobs": [LISTED[:2]], **TAKEN}},
        {"meta_info": {"output_top_logprobs": [LISTED], "output_token_logprobs": [[-0.25, 2, None]]}},
        {"meta_info": FLAT | TAKEN},
        {"meta_info": FLAT | SHAPE | TAKEN | {"cached_tokens": 0, "prompt_tokens": 2}},
        {"meta_info": FLAT | SHAPE | TAKEN | {"output_top_logprobs_null_prefix": 1}},
        {"meta_info": OCTETS | TAKEN | {"output_top_logprobs_shape": [1, 1]}},
        {"meta_info": OCTETS | TAKEN | {"output_top_logprobs_idx_flat_b64_dtype": "int64"}},
        ABORTED,
        {"meta_info": {"finish_reason": {"type": "abort", "err_type": "BadRequestError", "status_code": 400}}},
        {"meta_info": {"finish_reason": {"type": "abort", "err_type": "unavailable_error", "status_code": 503}}},
        {"meta_info": {"finish_reason": {"type": "abort", "status_code": 600}}},
        {"meta_info": {"finish_reason": {"type": "abort", "status_code": True}}},
    ),
    "kserve-v2": [
        *ok(
            {},
            {"outputs": [ROW]},
            {"outputs": [ROW | {"name": "x"}, ROW | {"name": "y"}]},
            {"outputs": [ROW | {"data": "x"}]},
            {"outputs": [ROW | {"datatype": "INT32", "data": [1] * 5}]},
            {"outputs": [ROW | {"shape": [1, 3, 5], "data": [0] * 15}]},
            {"outputs": [ROW | {"shape": [1, 1, 4], "data": [0] * 4}]},
            {"outputs": [ROW | {"shape": [1, 0], "data": []}]},
            {"outputs": [ROW, ROW]},
            {"outputs": [ROW | {"shape": [4]}]},
            {"outputs": [ROW | {"shape": []}]},
            {"outputs": [ROW | {"shape": 5}]},
            {"outputs": [ROW | {"data": [-3.4028234663852886e38, 0, 0, 0, 0]}]},
        ),
    ],
    "kserve-v2-tensorrt-llm": ok(
        {"outputs": [ROW | {"name": "generation_logits"}]},
        {
            "outputs": [
                ROW | {"name": "generation_logits"},
                {"name": "output_ids", "datatype": "INT32", "shape": [1, 1, 3], "data": [1, 3, 2]},
            ]
        },
        {"outputs": [ROW | {"name": "generation_logits"}, {"name": "output_ids", "datatype": "FP32", "shape": [1], "data": [2]}]},
    ),
}

# Answers to one draw of up to sixteen tokens, and to the rows of all beginnings of (1, 2, 4), two tokens each.
SAMPLED: Answers = {
    "llama.cpp": ok({}, {"tokens": [-1]}, {"tokens": []}, [{"tokens": [1]}, {"tokens": [2]}]),
    "sglang": ok({}, {"output_ids": [1, 2]}, ABORTED | {"output_ids": [1]}),
    "vllm": ok([], {"choices": [{}]}, {"choices": [{"token_ids": [1, 2]}]}),
}
LAST = {"top_logprobs": [{"token_id:2": -0.5, "token_id:0": -1.75}], "tokens": ["token_id:2"]}
PLACE = {"2": {"logprob": -0.5}, "0": {"logprob": -1.75}}
SCORED: Answers = {
    "vllm": ok(
        {},
        {"choices": [{"logprobs": LAST}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [None, PLACE]}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [PLACE, PLACE, PLACE]}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [None, PLACE, PLACE | {"1": {"logprob": -2.5}}]}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [None, PLACE, PLACE | {"4": {"logprob": -9999.0}}]}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [None, PLACE, {"2": {"logprob": 0.0}, "0": {"logprob": -9999.0}}]}]},
        {"choices": [{"logprobs": LAST, "prompt_logprobs": [None, PLACE, {"2": {"logprob": 0.0}, "0": {"logprob": -0.5}}]}]},
    ),
}
