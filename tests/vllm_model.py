"""Makes the model that ``vllm_server`` serves, in the directory it is given; run by the interpreter that has vLLM, which has no trio."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

V, CONTEXT = 512, 256


def make_model(path: str) -> None:
    """A Llama of two layers, whose rows are peaked enough to be worth sampling from."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    # vLLM's attention on the CPU takes heads of 32 and more.
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, head_dim=64, max_position_embeddings=CONTEXT, tie_word_embeddings=False, **sizes, **ends)
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)
    model.to(torch.float32).save_pretrained(path)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    while len(vocabulary) < V:
        vocabulary[f"w{len(vocabulary)}"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)


if __name__ == "__main__":
    make_model(sys.argv[1])
    Path(sys.argv[1], "generation_config.json").write_text(sys.argv[2])
