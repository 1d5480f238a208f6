"""`foresay.json`: what a checkpoint is, as a frozen dataclass that saves and loads itself.

In: the fields below, or a folder. Out: a `Record`, or `foresay.json`.
Careful: a key that is missing, unknown or of another type is a `CheckpointError` that names it; nothing is guessed. A
change of the fields is a new `FORMAT`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from shlex import quote
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from .. import __version__
from ..config import Reconstruct, Template
from ..errors import CheckpointError
from ..files import write_json

RECORD, WEIGHTS, GOLDEN = "foresay.json", "foresay.safetensors", "golden.safetensors"
ALONE = "alone"
"""The plain library's route to queries without the teacher's part: not `query`, or it would be taken for the whole."""
FORMAT = 5
_OLDEST = 3
"""The oldest format that is still read; `_as_now` says what it lacks."""


@dataclass(frozen=True)
class BackboneRecord:
    """The frozen language model: what finds it again.

    Attributes:
        name: hub id, full path of a folder, or `nano`.
        revision: commit, branch or tag on the hub.
        dtype: that it was used in.
        bundled: whether a copy of it is in the checkpoint.
    """

    name: str
    revision: str | None
    dtype: str
    bundled: bool = False


@dataclass(frozen=True)
class DocumentsRecord:
    """The teacher that embeds documents in place of the checkpoint.

    Attributes:
        name: as `load_teacher` takes it.
        revision: which it has to be.
        max_tokens: longer documents are cut to this many tokens.
        turned: whether its vectors are in the embedding's own axes already.
        bundled: whether a copy of it is in the checkpoint.
    """

    name: str
    revision: str | None
    max_tokens: int
    turned: bool = False
    bundled: bool = False


@dataclass(frozen=True)
class Exported:
    """What `export` wrote for plain sentence-transformers.

    Attributes:
        queries: whether it embeds queries,
        documents: and documents, as they should be.
        files: names in the folder.
    """

    queries: bool = False
    documents: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """How a checkpoint was made.

    Attributes:
        method: what found the weights.
        config: the options of `train` or `fit`.
        pairs: what the rows were made from and by.
        step: the step whose weights these are; None without steps.
        metrics: of that step.
        before: how the checkpoint was made whose special tokens and reconstruction map these are, where only the
            alignment map was found anew (method `refit`).
    """

    method: Literal["training", "closed form", "conversion", "refit"] = "training"
    config: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    before: "Training | None" = None


@dataclass(frozen=True)
class Record:
    """What a checkpoint is.

    Attributes:
        backbone: the frozen language model.
        thought: special tokens whose outputs are ignored.
        compression: special tokens whose outputs are read.
        hidden: width of the backbone's states.
        dim: width of the embedding.
        template: what goes around a text.
        prefix_ids: the template's token ids before a text, as they were in training. A template may hold the date.
        suffix_ids: and after it.
        readout: what the alignment map reads.
        reconstruct: whether one map leads to the soft prompt, or one for each of the tokens.
        lora_rank: of an adapter that reads the texts too; 0 for none.
        dims: lengths that an embedding may be shortened to.
        decodes: whether soft prompts were trained to be read.
        max_tokens: longest input, template and special tokens included.
        prompts: what goes before a text, by name.
        documents: who embeds documents, where the checkpoint does not.
        query_weight: share of the teacher's own vector of the bare query in a query's embedding.
        sentence_transformers: which sides the plain library embeds.
        training: how it was made.
        environment: versions and hardware that it was made with.
        files: names in the folder that belong to the checkpoint, and that the next save may replace.
    """

    backbone: BackboneRecord
    thought: int
    compression: int
    hidden: int
    dim: int
    template: Template
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    readout: str
    reconstruct: Reconstruct
    lora_rank: int
    dims: tuple[int, ...]
    decodes: bool
    max_tokens: int
    prompts: dict[str, str]
    documents: DocumentsRecord | None
    query_weight: float
    sentence_transformers: Exported
    training: Training
    environment: dict[str, str]
    files: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Writes `foresay.json` in one move."""
        head = {"format": "foresay", "format_version": FORMAT, "foresay_version": __version__}
        write_json(folder / RECORD, {**head, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads a checkpoint's `foresay.json`.

        Raises:
            CheckpointError: if it is missing, damaged, of another format, or a key is missing or of another type.
        """
        path = folder / RECORD
        if not path.is_file():
            raise CheckpointError(f"{folder} has no {RECORD}, so it is no complete checkpoint{_hint(folder)}")
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is not JSON ({error}); get the checkpoint again") from None
        values = dict(found) if isinstance(found, dict) else {}
        if values.pop("format", None) != "foresay":
            raise CheckpointError(f"{path} is not a Foresay checkpoint's: it does not say format: foresay")
        version = values.pop("format_version", None)
        if not isinstance(version, int) or not _OLDEST <= version <= FORMAT:
            newer = isinstance(version, int) and version > FORMAT
            repair = "pip install -U foresay" if newer else "make it again with the command that made it"
            raise CheckpointError(
                f"{folder} has format version {version}, this is foresay {__version__}, which reads {FORMAT}: {repair}"
            )
        values.pop("foresay_version", None)
        record: Self = _typed(cls, _as_now(values, version), "", path)
        return record


def _as_now(values: dict[str, Any], version: int) -> dict[str, Any]:
    """What an older format holds, with what has been added since."""
    training = values.get("training")
    if version < 4 and isinstance(training, dict):
        values = {**values, "training": {**training, "before": None}}
    return {"query_weight": 0.0, **values} if version < 5 else values


def _hint(folder: Path) -> str:
    """What a folder without a record may be, and what to do."""
    if (folder / "run_config.yml").is_file():
        return f"; it is in the published format: foresay convert {quote(str(folder))} -o NEW"
    if (folder / "training").is_dir():
        return "; its training did not finish: run the same foresay train command again"
    if inside := sorted(folder.glob(f"*/{RECORD}")):
        return f"; did you mean {inside[0].parent}?"
    return ""


# -- JSON to types ---------------------------------------------------------------------------------------


def _typed(kind: Any, value: Any, where: str, path: Path) -> Any:  # noqa: ANN401 - any type, any JSON value
    """A JSON value as the type that a field has; `where` names the field."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _dataclass(kind, value, where, path)
    if origin is UnionType:
        inner = next(arg for arg in args if arg is not NoneType)
        return None if value is None else _typed(inner, value, where, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(args[0], entry, f"{where}[{i}]", path) for i, entry in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {key: _typed(args[1], entry, f"{where}.{key}", path) for key, entry in value.items()}
    if origin is Literal and value in args:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise _wrong(path, f"{where} is {value!r}, expected {_name(kind)}")


def _dataclass(kind: Any, value: Mapping[str, Any], where: str, path: Path) -> Any:  # noqa: ANN401
    prefix = f"{where}." if where else ""
    names = {entry.name for entry in fields(kind)}
    for missing in sorted(names - value.keys()):
        raise _wrong(path, f"{prefix}{missing} is missing")
    for unknown in sorted(value.keys() - names):
        raise _wrong(path, f"{prefix}{unknown} is unknown")
    hints = get_type_hints(kind)
    return kind(**{name: _typed(hints[name], value[name], f"{prefix}{name}", path) for name in names})


def _name(kind: Any) -> str:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list"
    known = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return known.get(kind, "an object")


def _wrong(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {what}; get the checkpoint again, or make it again")
