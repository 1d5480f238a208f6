"""An LLM2Vec teacher on disk and in use: a backbone, adapters that make it read in both directions, a mean.

In: the folder that `foresay teacher` made, a published LLM2Vec model (hub id or folder), or the word `nano-teacher`.
Out: an `LLM2VecTeacher`. Our own folder also opens in plain `SentenceTransformer(path)`:

    teacher.json                 backbone and revision, longest text, what made it
    adapter/                     LoRA adapter in PEFT's format
    golden.safetensors           a sample of the backbone's weights, to refuse another one under the same name
    modules.json, backbone_config.json, tokenizer.json, …    the same teacher for plain sentence-transformers

What a reader would get wrong: why the adapter has a folder of its own. Beside an adapter, the library takes the
config from the backbone, whose attention is causal. So it is pointed at our `backbone_config.json`, which says
`is_causal: false`, and finds the adapter by `adapter_kwargs`.
"""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Pooling, WordWeights

from .. import __version__
from ..backbone import Backbone, same_backbone
from ..batching import Budget, run_by_length
from ..checkpoints.export.layout import transformer_config, write_library_config, write_modules, write_tokenizer
from ..config import TeachConfig
from ..errors import InputError
from ..files import read_json, write_json
from ..model import Model
from .bidirectional import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Bidirectional
from .card import write_card

if TYPE_CHECKING:
    from ..data.targets import Vectors

CONFIG, GOLDEN = "teacher.json", "golden.safetensors"
NANO_TEACHER = "nano-teacher"
NANO_TEACHER_FOLDER = Path(__file__).parents[1] / "packaged" / "nano_teacher"
FORMAT = 1
_PUBLISHED_STAGES = ("-unsup-simcse", "-supervised")
"""Ends of published names whose adapter stands on the one of the name without it: `X-mntp-unsup-simcse` on `X-mntp`."""
_INST = ("[INST]", "[/INST]")  # the spaces inside are their tokenizers' own
_FRAMES = {
    "Meta-Llama-3-8B-Instruct": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "Mistral-7B-Instruct-v0.2": _INST,
    "Llama-2-7b-chat-hf": _INST,
}
"""What the authors' encoder puts before and behind each text for these three backbones (llm2vec.py,
`prepare_for_tokenization`); for all others nothing."""


class LLM2VecTeacher:
    """The mean state of a text's tokens, read in both directions; see the `Teacher` protocol."""

    pooling = "mean"

    def __init__(
        self, reader: Bidirectional, name: str, config: TeachConfig | None = None, adapters: Sequence[Path] = ()
    ) -> None:
        """Uses a model that is loaded already.

        Args:
            reader: backbone and adapters.
            name: what the teacher is called in a folder of targets.
            config: lengths and batch size.
            adapters: folders that the reader's adapters are from; a hash of their weights is the teacher's revision.
        """
        config = config or TeachConfig()
        self.reader, self.name, self.adapters = reader, name, tuple(adapters)
        self.revision = fingerprint(adapters) if adapters else None
        self.dim = reader.backbone.hidden_size
        room = reader.backbone.max_positions - len(reader.before) - len(reader.behind)
        self.max_tokens = min(config.max_tokens, room)
        tokens = config.batch_size * self.max_tokens
        self._budget = Budget(tokens, reader.backbone.least_tokens, config.batch_size)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> "Vectors":
        """Vectors (texts, dim), float32, not normalised; the longest texts computed first."""
        rows = [row[: self.max_tokens] for row in self.reader.backbone.tokenize(texts)]
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        run_by_length(rows, self.reader.mean, [torch.from_numpy(vectors)], self._budget)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.reader.backbone.tokenize(texts)]


# -- loading ---------------------------------------------------------------------------------------------


def load(
    name: str, backbone: Backbone | None = None, device: str = "auto", config: TeachConfig | None = None
) -> LLM2VecTeacher | None:
    """The LLM2Vec teacher called `name`; None if there is something else under that name, or nothing.

    Args:
        name: a folder, a hub id, or `nano-teacher`.
        backbone: the language model, if it is loaded already and the teacher is of this one: then they share their
            weights. Without it, or where it is another one, the teacher loads its own, and adds its adapters into
            the weights, which makes it as fast as the causal model.
        device: as for `Backbone.load`.
        config: lengths and batch size.

    Raises:
        InputError: if a part is missing, or of another model.
        BackboneError: if the backbone cannot be loaded, is another one, or stays causal.
    """
    folder = NANO_TEACHER_FOLDER if name == NANO_TEACHER else _folder(name)
    if folder is None:
        return None
    if (folder / CONFIG).is_file():
        return _load_own(name, folder, backbone, device, config)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "modules.json").is_file():
        return _load_published(name, folder, backbone, device, config)
    return None


def _load_own(
    name: str, folder: Path, backbone: Backbone | None, device: str, config: TeachConfig | None
) -> LLM2VecTeacher:
    about = read_json(folder / CONFIG)
    if about.get("format") != "foresay-teacher" or about["format_version"] > FORMAT:
        raise InputError(
            f"{folder / CONFIG} is of a newer format than foresay {__version__} reads; pip install -U foresay"
        )
    base = about["backbone"]
    chain = [folder / "adapter"]
    model, is_shared = _model(base["name"], base["revision"], base["dtype"], backbone, device)
    same_backbone(model, base["name"], load_file(folder / GOLDEN)["backbone_sample"])
    reader = _with_adapters(Bidirectional(model), chain, merge=not is_shared)
    return LLM2VecTeacher(reader, name, config, chain)


def _load_published(
    name: str, folder: Path, backbone: Backbone | None, device: str, config: TeachConfig | None
) -> LLM2VecTeacher:
    chain, base = _chain(name, folder)
    model, is_shared = _model(base, None, "auto", backbone, device)
    reader = _with_adapters(Bidirectional(model, *_frame(model)), chain, merge=not is_shared)
    return LLM2VecTeacher(reader, name, config, chain)


def _model(
    name: str, revision: str | None, dtype: str, backbone: Backbone | None, device: str
) -> tuple[Backbone, bool]:
    """The backbone called `name`, and whether it is the one that is given."""
    if backbone is not None and backbone.name == name:
        return backbone, True
    return Backbone.load(name, revision=revision, device=device, dtype=dtype), False


def _frame(backbone: Backbone) -> tuple[list[int], list[int]]:
    """Token ids before and behind a text of a published model of this backbone."""
    before, behind = _FRAMES.get(Path(backbone.name).name, ("", ""))
    return [*backbone.leading_ids, *backbone.control_ids(before)], backbone.control_ids(behind)


def _with_adapters(reader: Bidirectional, chain: list[Path], *, merge: bool) -> Bidirectional:
    for adapter in chain:
        reader.load_adapter(adapter)
    if merge:
        reader.merge()
    else:
        reader.narrow()
    reader.model.eval()
    return reader


def _chain(name: str, folder: Path) -> tuple[list[Path], str]:
    """The adapters of a published model, the lowest first, and the backbone below them.

    An adapter names what it was trained on: the backbone, or another adapter. SimCSE adapters were trained on merged
    weights and name the backbone all the same; their own names say which adapter comes first.
    """
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path; write the backbone's name there")
    stage = next((stage for stage in _PUBLISHED_STAGES if name.rstrip("/").endswith(stage)), None)
    below = name.rstrip("/").removesuffix(stage) if stage else str(base)
    found = _folder(below)
    if found is not None and (found / ADAPTER_CONFIG).is_file():
        chain, base = _chain(below, found)
        return [*chain, folder], base
    if stage:
        raise InputError(f"{name} stands on the adapter {below}, which is not there; get it too, beside this one")
    return [folder], str(base)


def _folder(name: str) -> Path | None:
    """A folder of that name, or the small files of a repository on the hub."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_absolute() or name.count("/") != 1:
        return None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", f"*{ADAPTER_WEIGHTS}", GOLDEN]))
    except (OSError, ValueError):
        return None


def fingerprint(chain: Sequence[Path]) -> str:
    """16 hex digits that stand for the weights of adapters."""
    digest = hashlib.sha256()
    for adapter in chain:
        digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()[:16]


# -- saving ----------------------------------------------------------------------------------------------


def save(folder: Path, reader: Bidirectional, record: dict[str, Any]) -> None:
    """Writes a teacher of one adapter; `teacher.json` comes last, so that a folder with it has the other files.

    Args:
        folder: to write; what an earlier call wrote is replaced.
        reader: backbone and adapter.
        record: how it was made.
    """
    backbone = reader.backbone
    (folder / CONFIG).unlink(missing_ok=True)
    reader.save_adapter(folder / "adapter", backbone.address, backbone.revision)
    save_file({"backbone_sample": backbone.sample()}, folder / GOLDEN)
    longest = min(TeachConfig().max_tokens + len(backbone.leading_ids), backbone.max_positions)
    write_layout(folder, backbone, longest)
    about = {
        "format": "foresay-teacher",
        "format_version": FORMAT,
        "foresay_version": __version__,
        "backbone": {
            "name": backbone.name,
            "revision": backbone.revision,
            "dtype": backbone.dtype_name,
        },
        "training": record,
    }
    write_card(folder, about)
    write_json(folder / CONFIG, about)


def write_layout(folder: Path, backbone: Backbone, max_tokens: int, turn: Iterable[torch.nn.Module] = ()) -> None:
    """Writes what plain sentence-transformers needs to read in both directions, but for the adapter, in `adapter/`.

    Args:
        folder: to write into.
        backbone: the language model, which the adapter names.
        max_tokens: longest text, a leading token included.
        turn: modules between states and mean.
    """
    config = copy.deepcopy(backbone.model.config)
    for part in (config, config.get_text_config()):
        part.is_causal = False
    config.to_json_file(folder / "backbone_config.json")
    transformer = transformer_config(backbone, max_tokens)
    transformer["config_kwargs"] = {"_configuration_file": "backbone_config.json"}
    transformer["model_kwargs"]["adapter_kwargs"] = {"subfolder": "adapter"}
    write_mean(folder, backbone, transformer, turn)


def write_mean(
    folder: Path, backbone: Backbone, transformer: dict[str, Any], turn: Iterable[torch.nn.Module] = ()
) -> None:
    """Writes the files of the mean state of a text's tokens; `transformer` says how the library loads the backbone."""
    write_json(folder / "sentence_bert_config.json", transformer)
    write_tokenizer(folder, Model(backbone, thought=0, compression=0, dim=1), [], transformer["max_seq_length"])
    write_modules(folder, "", [*turn, *_pooling(backbone)])
    write_library_config(folder, {})


def _pooling(backbone: Backbone) -> list[torch.nn.Module]:
    """The mean over the text's own tokens: where a leading token stands before them, it weighs nothing."""
    mean = Pooling(backbone.hidden_size, "mean")
    if not backbone.leading_ids:
        return [mean]
    vocab = [""] * backbone.embedding.num_embeddings
    for token in backbone.leading_ids:
        vocab[token] = f"leading_{token}"
    return [WordWeights(vocab, {f"leading_{token}": 0.0 for token in backbone.leading_ids}, 1.0), mean]
