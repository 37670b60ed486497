"""A small Llama from the files that transformers writes, as a GGUF file for llama.cpp: the same weights for two engines.

What llama.cpp's own converter does, for one architecture, float32 and a vocabulary of octets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from seedbed.errors import MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def require_gguf() -> Any:
    """The module.

    Raises:
        MissingExtra: the package that reads and writes such files is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("pip install gguf") from error
    return gguf


def write_gguf(model: Path, path: Path) -> Path:
    """Write the model in the directory ``model`` to ``path``.

    Raises:
        MissingExtra: the package that writes such files is not installed.
    """
    gguf = require_gguf()
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    _add_sizes(writer, config)
    _add_tokenizer(writer, json.loads((model / "tokenizer.json").read_text())["model"]["vocab"], config)
    for name, tensor in load_file(model / "model.safetensors").items():
        writer.add_tensor(_name(name), _rotated(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: Any, config: dict[str, Any]) -> None:
    writer.add_name("tiny")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config).get("rope_theta", 10_000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(0)  # float32 throughout


def _add_tokenizer(writer: Any, vocabulary: dict[str, int], config: dict[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if token_id < 3 else 2 if token_id == 3 else 1 for token_id in range(len(vocabulary))])  # control, unknown
    writer.add_token_merges(["w 0"])  # none is refused
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(False)


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, *inner, kind = name.split(".")
    return f"blk.{layer}.{LAYER_NAMES['.'.join(inner)]}.{kind}"


def _rotated(name: str, tensor: NDArray[np.float32], config: dict[str, Any]) -> NDArray[np.float32]:
    """llama.cpp turns neighbouring numbers of a head against each other, transformers those of its two halves."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    return np.ascontiguousarray(tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns))
