"""GGUF files, as llama.cpp and Ollama keep them, to folders that the library loads: unpacked once, then reused.

In: a GGUF file. Out: a folder in the cache (FORESAY_CACHE, else XDG_CACHE_HOME/foresay, else ~/.cache/foresay), named
by a hash of the file's content, with the weights in bfloat16, or in the file's own dtype where it is not quantised.
Be careful: unpacking does not give back what quantisation took. A checkpoint names the GGUF file as its backbone; the
plain sentence-transformers layout names the converted copy, since that library cannot open a GGUF file by name.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .errors import BackboneError
from .files import file_hash, read_json, write_json
from .outputs import sync

try:
    import fcntl
except ImportError:  # Windows has no flock; there two processes convert at once, and the later one gives way
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_VERSION = 1
"""Of the conversion; part of a copy's name, so that a better conversion makes a new copy."""
_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Pre-tokenizers of llama.cpp that cut every digit off, and else cut as GPT-2 does (`llm_tokenizer_bpe`)."""
_AS_GPT2 = {"default", "gpt-2", "gpt2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "olmo"}
"""Those that cut as GPT-2 does."""
_WHOLE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of tensors that are not quantised."""


def cache_folder() -> Path:
    """Where converted copies are kept."""
    own = os.environ.get("FORESAY_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "foresay"


def converted(file: Path) -> Path:
    """The folder of a GGUF file's converted copy; makes it, whole or not at all, if it is not there.

    Two processes may ask at once: one converts, the other waits.

    Raises:
        BackboneError: if the file is damaged or of an architecture that the library does not know, the package gguf
            is missing, or the cache cannot be written.
    """
    try:
        home = cache_folder() / "gguf"
        home.mkdir(parents=True, exist_ok=True)
        folder = home / f"{_content_of(file, home)[:20]}-{_VERSION}"
        if folder.is_dir():
            return folder
        with _alone(home / f".{folder.name}.lock"):
            if not folder.is_dir():
                _convert(file, folder)
        return folder
    except OSError as error:
        raise BackboneError(
            f"cannot convert {file} into {cache_folder()}: {error}; make room, or set FORESAY_CACHE to another folder"
        ) from error


def _content_of(file: Path, home: Path) -> str:
    """A hash of the content, remembered for as long as the file's size and time stay as they are."""
    found = file.stat()
    key = repr((str(file.resolve()), found.st_size, found.st_mtime_ns))
    memory = home / f".{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if memory.is_file():
        return str(read_json(memory)["content"])
    with _alone(memory.with_suffix(".lock")):
        if not memory.is_file():
            write_json(memory, {"file": str(file), "content": file_hash(file)})
    return str(read_json(memory)["content"])


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process is in here."""
    with lock.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(file: Path, folder: Path) -> None:
    if find_spec("gguf") is None:
        raise BackboneError(f"{file} needs the package gguf, which is not installed: pip install 'foresay[gguf]'")
    logger.warning("converting %s, once; later loads take its copy %s", file, folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    for old in folder.parent.glob(f".{folder.name}.[0-9]*"):  # of a process that was killed: nobody else is in here
        shutil.rmtree(old, ignore_errors=True)
    try:
        _write(file, draft)
        for path in [*draft.rglob("*"), draft]:
            sync(path)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync(folder.parent)


def _write(file: Path, draft: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        pre, dtype = _facts(file)
        where: dict[str, Any] = {"gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        model, report = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=dtype, output_loading_info=True, **where, **_unpacking()
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"the file lacks {len(missing)} tensors, such as {', '.join(missing[:3])}")
        _split_as(tokenizer, pre, file)
    except OSError:
        raise
    except Exception as error:  # the readers raise whatever a damaged file leads them to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BackboneError(
            f"cannot read {file}: {reason[0]} (expected a whole GGUF file of a causal language model that transformers "
            "knows; a file in several parts is joined by llama-gguf-split --merge)"
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)


def _unpacking() -> dict[str, Any]:
    """What makes the library unpack the weights; versions before `GgufConfig` always do."""
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _facts(file: Path) -> tuple[str, torch.dtype]:
    """The name of the pre-tokenizer, and the dtype to unpack to."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    field = reader.fields.get("tokenizer.ggml.pre")
    pre = "" if field is None else str(field.contents())
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1}
    (kind,) = kinds if len(kinds) == 1 else ("",)
    return pre, _WHOLE.get(kind, torch.bfloat16)


def _split_as(tokenizer: Any, pre: str, file: Path) -> None:  # noqa: ANN401 - transformers' own type
    """Cuts text as the vocabulary's merges were learned, where the library (5.23) does not know how."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if pre in _DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif pre and pre not in _AS_GPT2 and '"use_regex":true' in str(backend.pre_tokenizer.__getstate__()):
        logger.warning("%s cuts text as %s does, which is not known here; it is cut as GPT-2 does", file, pre)
