"""Sample JSON that always parses: a grammar engine as a logits processor.

The engine (llguidance) says which tokens may come next; everything else gets -inf. The mask is a function of the prefix alone, so
sequences stay addressable: the same seed gives the same documents, whatever runs beside them. Run it: ``python tests/examples/grammar.py``
"""

import json
import sys
from functools import lru_cache

import numpy as np
import trio

from seedbed import Sampler, generate
from seedbed.server.models import TinyLM

try:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
except ImportError:
    sys.exit("This example needs a grammar engine: pip install llguidance")

SCHEMA = {
    "type": "object",
    "properties": {"plant": {"type": "string", "pattern": "^[a-z]{3,12}$"}, "rows": {"type": "integer", "minimum": 1, "maximum": 64}},
    "required": ["plant", "rows"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
PROMPT = b"The gardener writes: "


class Bytes:
    """The model's tokenizer, as the engine wants to see it: token ids 0 to 255 are octets, the next one ends the text."""

    eos_token_id, bos_token_id = TinyLM.vocab_size - 1, None
    tokens = [*(bytes([octet]) for octet in range(256)), b"\xff<|end|>"]  # noqa: RUF012
    special_token_ids = [TinyLM.vocab_size - 1]  # noqa: RUF012

    def __call__(self, text):
        return list(text)


class GrammarMask:
    """(prefix, logits) -> logits, with -inf where the grammar cannot go on.

    What the engine knows of a prefix is kept, so each step consumes one token; it is a cache and no state, so sequences may come and go.
    """

    def __init__(self, tokenizer, schema, prompt_length):
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
        beginning = LLMatcher(tokenizer, grammar)

        @lru_cache(maxsize=1024)
        def after(output):
            if not output:
                return beginning
            matcher = after(output[:-1]).deep_copy()
            matcher.consume_token(output[-1])
            return matcher

        self._after, self._prompt_length = after, prompt_length

    def __call__(self, prefix, logits):
        mask = self._after(tuple(prefix[self._prompt_length :])).deep_copy().compute_bitmask()
        allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: logits.size]
        return np.where(allowed, logits, -np.inf)


async def main():
    mask = GrammarMask(LLTokenizer(TokenizerWrapper(Bytes())), SCHEMA, len(PROMPT))
    result = await generate(list(PROMPT), TinyLM(), n=12, seed=7, sampler=Sampler(temperature=1.2, processors=[mask]), max_new_tokens=80)
    for sequence in result.sequences:
        text = bytes(sequence.token_ids[:-1]).decode()
        document = json.loads(text)
        assert set(document) == {"plant", "rows"}
        assert 1 <= document["rows"] <= 64
        print(f"{sequence.index:>2}  {text}")
    print(f"{len(result.sequences)} documents, all of them JSON of that form.")


if __name__ == "__main__":
    trio.run(main)
