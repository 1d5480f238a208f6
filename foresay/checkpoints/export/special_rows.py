"""Rows of the embedding matrix that no text can reach: there plain sentence-transformers finds the special tokens.

In: a model. Out: an id for each of its special tokens.
Careful: an id beyond the matrix means that the backbone has too few such rows and needs a larger copy.
"""

import json
from typing import Any

from ...backbone import RESERVED, Backbone
from ...model import Model

_NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))


def special_ids(model: Model) -> list[int]:
    """An id for each special token: rows no text can reach, and rows to be added where these are too few.

    In turn: rows beyond the tokenizer's ids (Qwen3 has 267), then added tokens nobody uses (Llama 3 and Gemma
    reserve some), then the tokens of bytes that UTF-8 never holds (13 in every vocabulary of bytes).
    """
    backbone = model.backbone
    rows = backbone.embedding.num_embeddings
    beyond = max(backbone.tokenizer.get_vocab().values()) + 1
    free = [*range(beyond, rows), *_unreachable(model, rows)]
    return [*free, *range(max(beyond, rows), max(beyond, rows) + model.tokens)][: model.tokens]


def _unreachable(model: Model, rows: int) -> list[int]:
    """Ids of tokens in the vocabulary that no text becomes and nothing else uses."""
    backbone = model.backbone
    vocab = backbone.tokenizer.get_vocab()
    spec = json.loads(backbone.text_tokenizer.to_str())
    names = [name for name in dict.fromkeys([*_unused(spec, backbone), *_impossible_bytes(spec)]) if name in vocab]
    used = {*model.prefix_ids, *model.suffix_ids, *backbone.stop_ids, backbone.pad_id}
    spelled = zip(names, backbone.tokenize(names), strict=True)  # merges may still spell a name out
    return [vocab[name] for name, ids in spelled if vocab[name] < rows and vocab[name] not in {*used, *ids}]


def _unused(spec: dict[str, Any], backbone: Backbone) -> list[str]:
    """Added tokens that text does not become and neither model nor template names, the reserved ones first."""
    named = set(map(str, backbone.tokenizer.special_tokens_map.values()))
    template = "\n".join(backbone.templates.values())
    names = [token["content"] for token in spec["added_tokens"] if token["special"]]
    unused = [name for name in names if name not in named and name not in template]
    return sorted(unused, key=lambda name: not RESERVED.match(name))


def _impossible_bytes(spec: dict[str, Any]) -> list[str]:
    """Names of the tokens that stand for bytes outside UTF-8."""
    byte_level = '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])  # GPT-2 writes such a byte as the character itself
    return [chr(byte) if byte_level else f"<0x{byte:02X}>" for byte in _NEVER_IN_UTF8]
