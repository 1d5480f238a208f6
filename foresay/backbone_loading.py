"""A backbone's weights and tokenizer from its files, or an error that says what is wrong with them.

In: a folder or hub id, and how to load it. Out: a model whose every tensor came from the files, and a tokenizer that
does what its `tokenizer.json` says.
Be careful: the library fills in what is missing with random numbers and goes on. A model without its head then answers
noise, and one token read as two moves every vector, so both are errors here.
"""

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from .backbone_sources import adapter_error
from .errors import BackboneError

logger = logging.getLogger(__name__)

OWN_TOKENIZER = "backbone_tokenizer"
"""Folder inside a checkpoint's copy of its backbone: there the tokenizer beside the weights appends special tokens."""
_PROBES = (
    "What is 3 + 45? 1,234,567.89 or 2024-05-17; 3rd of 12",
    "  two  spaces\tand\ttabs \n\n new lines\r\n   ",
    "don't I'M we'Ve it's O'Neill's",
    "naïve café e\u0301tude Ångström ﬁne №5 ½",
    "日本語のテキスト 中文 한국어 हिन्दी العربية עברית ไทย",
    "🙂👩\u200d🔬 → € “quoted” – dash…",
    "camelCase snake_case HTTPServer x86_64 C++ foo(bar)[0]{1}; // -> != ===",
    "http://example.org/a?b=c#d user@example.org",
)
"""Texts on which tokenizers of different rules part: digits, spaces, contractions, accents, scripts, punctuation."""


def load_model(source: str, name: str, revision: str | None, **options: Any) -> PreTrainedModel:  # noqa: ANN401
    """The model, with each of its tensors from the files.

    Args:
        source: folder or hub id.
        name: what messages call it.
        revision: commit, branch or tag on the hub.
        **options: dtype, device_map and quantization, for `AutoModelForCausalLM.from_pretrained`.

    Raises:
        BackboneError: if there is no such model, files are damaged, tensors are missing, or an adapter came along.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )  # of tensors in another shape it would print a table alone; the report names them, and they are refused below
    except SafetensorError as error:
        raise BackboneError(f"the weights of {name} are damaged ({error}); get the files again") from error
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise _cannot_load(name, error) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise adapter_error(name, "its base model")
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if missing:
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise BackboneError(
            f"{name} lacks {len(missing)} tensors of a {type(model).__name__}, or has them in another shape: {listed}; "
            "get the whole model, or the one that its config.json describes"
        )
    return model


def load_tokenizer(source: str, name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer, as its `tokenizer.json` says.

    For some types of models the library builds parts of the tokenizer anew and ignores the file's (transformers 5.23:
    a Qwen2 folder with another pre-tokenizer). Then the file counts, since the model was trained with it.

    Raises:
        BackboneError: if there is none, or it has no fast form, or the library cannot be made to follow the file.
    """
    own = Path(source, OWN_TOKENIZER)
    place = str(own) if own.is_dir() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        path = cached_file(place, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        file = Tokenizer.from_file(path) if path else None
    except Exception as error:  # the tokenizers library raises bare Exceptions for damaged files
        raise _cannot_load(name, error) from error
    if file is None or not tokenizer.is_fast or _agree(file, tokenizer):
        return tokenizer
    exact = PreTrainedTokenizerFast.from_pretrained(place, revision=revision)
    exact.chat_template = exact.chat_template or tokenizer.chat_template
    if not _agree(file, exact):
        raise BackboneError(
            f"the tokenizer that transformers makes for {name} ({type(tokenizer).__name__}) cuts text otherwise than "
            "its tokenizer.json says; set tokenizer_class to PreTrainedTokenizerFast in its tokenizer_config.json"
        )
    logger.warning(
        "transformers' %s cuts text otherwise than the tokenizer.json of %s says; taking the file",
        type(tokenizer).__name__,
        name,
    )
    return exact


def _agree(file: Tokenizer, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether both cut the probing texts into the same tokens."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    for one in (file, backend):
        one.no_truncation()
        one.no_padding()
    cut = [one.encode_batch(list(_PROBES), add_special_tokens=False) for one in (file, backend)]
    return [found.ids for found in cut[0]] == [found.ids for found in cut[1]]


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuses a model with fewer embeddings than its tokenizer has tokens that a text can become.

    Added special tokens beyond the matrix, which some models have and never use, are none of those.
    """
    rows = model.get_input_embeddings().num_embeddings
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    beyond = {token: place for token, place in tokenizer.get_vocab().items() if place >= rows and token not in added}
    if beyond:
        token, place = min(beyond.items(), key=lambda item: item[1])
        raise BackboneError(
            f"{name} has {rows} embeddings, and its tokenizer {len(beyond)} tokens beyond them, such as {token!r} with "
            f"the id {place}: the two are not of the same model; get both again"
        )


def _cannot_load(name: str, error: Exception) -> BackboneError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return BackboneError(
        f"cannot load the language model {name!r}: {reason} (expected a folder with a causal model, a GGUF file, "
        "a hub id, or the word nano or smollm2)"
    )
