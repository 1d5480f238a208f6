"""A checkpoint on disk: saving, loading, verifying.

    foresay.json           backbone and revision, token counts, prompts, what it was trained on and with
    foresay.safetensors    special_tokens, reconstruct, align: float32
    golden.safetensors     embeddings, soft prompts and the teacher's vectors of a few texts, and a sample of the
                           backbone's weights
    README.md              the model card
    modules.json, query/,  the same model for plain sentence-transformers, where that can express it (plain.py); where a
    document/              teacher embeds the documents, a folder for each side (routes.py)

What a reader would get wrong: neither backbone nor teacher is in it, unless asked for. What is in it is a sample of the
backbone's numbers, so that another model under the same name is refused instead of giving other vectors.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import __version__
from ..backbone import Backbone, locate, same_backbone
from ..encoder import DocumentTeacher, Encoder
from ..errors import BackboneError, CheckpointError, VerifyError
from ..files import sync, write_json
from ..model import Model
from .card import write_card
from .environment import environment
from .golden import GOLDEN, TOLERANCE, Verdict, distance, golden_vectors, recompute, recompute_plain
from .router import DOCUMENT, QUERY, Parts, write_models
from .sentence_transformers import COPY

CONFIG, WEIGHTS = "foresay.json", "foresay.safetensors"
FORMAT = 2


def save(
    folder: Path,
    encoder: Encoder,
    record: dict[str, Any] | None = None,
    *,
    plain: bool = True,
    with_backbone: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Writes a checkpoint, whole or not at all.

    A new folder appears by one rename. In a folder that is there already, `foresay.json` goes first and comes
    back last: without it the folder is no checkpoint, and `load` says so.

    Args:
        folder: to write.
        encoder: what to save.
        record: how it was made: `config`, `pairs`, `step`, `figures`.
        plain: also write the layout that plain sentence-transformers opens.
        with_backbone: put copies of backbone and teacher inside, to move the folder or to serve it elsewhere.
        extra: writes further files into the folder before it appears.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.saving"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    model = encoder.model
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, draft / WEIGHTS)
    golden = golden_vectors(encoder, documents=plain)
    save_file(golden | {"backbone_sample": model.backbone.sample()}, draft / GOLDEN)
    parts = write_models(draft, encoder, with_backbone=with_backbone) if plain or with_backbone else Parts()
    if extra:
        extra(draft)
    config = _describe(encoder, record or {}, parts)
    write_card(draft, config)
    files = sorted([path.name for path in draft.iterdir()] + [CONFIG])
    write_json(draft / CONFIG, {**config, "files": files})
    appear(draft, folder)


def load(
    path: str | Path,
    kind: type[Encoder],
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> Any:  # noqa: ANN401 - a `kind`
    """Reads a checkpoint; see `Encoder.from_pretrained`, which calls this."""
    folder = find(path, revision)
    config = read_config(folder)
    if backbone is None:
        backbone = _load_backbone(folder, config["backbone"], device, dtype)
    same_backbone(backbone, config["backbone"]["name"], _tensors(folder / GOLDEN)["backbone_sample"])
    model = Model(
        backbone,
        thought=config["thought"],
        compression=config["compression"],
        dim=config["dim"],
        template=config["template"],
        readout=config["readout"],
        rotated=bool(config["dims"]),
        lora_rank=config["lora_rank"],
    )
    load_weights(model, folder)
    return kind(
        model,
        prompts=config["prompts"],
        max_tokens=config["max_tokens"],
        dims=config["dims"],
        decodes=config["decodes"],
        document_teacher=_document_teacher(folder, config["documents"]),
    )


def load_weights(model: Model, folder: Path) -> None:
    """Reads the trained weights of a checkpoint into a model of the same shape.

    Raises:
        CheckpointError: if a tensor is missing, unknown or of another shape.
    """
    tensors = _tensors(folder / WEIGHTS)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its foresay.json: {wrong[0]}; get the checkpoint again")
    model.load_state_dict(tensors)


def find(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local one, or one fetched from the hub.

    Raises:
        CheckpointError: if there is neither.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(str(path), revision=revision))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"no checkpoint at {path}: no such folder, and not from the hub either ({reason})"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's foresay.json.

    Raises:
        CheckpointError: if it is missing or not one of ours.
    """
    path = folder / CONFIG
    if not path.is_file():
        hint = ""
        if (folder / "run_config.yml").is_file():
            hint = f"; it is in the published format: foresay convert {folder} -o NEW"
        elif (folder / "training").is_dir():
            hint = "; its training did not finish: run the same foresay train command again"
        elif inside := sorted(folder.glob(f"*/{CONFIG}")):
            hint = f"; did you mean {inside[0].parent}?"
        raise CheckpointError(f"{folder} has no {CONFIG}, so it is no complete checkpoint{hint}")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); get the checkpoint again") from None
    if config.get("format") != "foresay":
        raise CheckpointError(f"{path} is not a Foresay checkpoint's (format {config.get('format')!r})")
    if config["format_version"] != FORMAT:
        repair = "pip install -U foresay" if config["format_version"] > FORMAT else "make it again"
        raise CheckpointError(
            f"{folder} has format version {config['format_version']}, this is foresay {__version__}, which reads "
            f"{FORMAT}: {repair}"
        )
    return config


def verify(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> list[Verdict]:
    """Recomputes the golden vectors by every way this machine has.

    Returns:
        one verdict a way: batched, one text at a time, soft prompts, the teacher's documents where it embeds them,
        and plain sentence-transformers where it can.

    Raises:
        VerifyError: if one of them disagrees, naming it and the distance.
        CheckpointError: if the checkpoint cannot be read.
    """
    folder = find(path)
    config, golden = read_config(folder), _tensors(folder / GOLDEN)
    encoder = Encoder.from_pretrained(folder, device=device, dtype=dtype)
    used = encoder.model.backbone.number_type
    tolerance = max(TOLERANCE[used], TOLERANCE[config["backbone"]["dtype"]])
    computed = recompute(encoder, golden) | recompute_plain(folder, encoder, golden, **config["sentence_transformers"])
    verdicts = [Verdict(way, distance(found, golden[name]), tolerance) for way, (name, found) in computed.items()]
    wrong = [verdict for verdict in verdicts if not verdict.agrees]
    if wrong:
        listed = "; ".join(f"{v.way} is off by {v.distance:.2g}, allowed {v.tolerance:.2g}" for v in wrong)
        raise VerifyError(f"{folder} does not give its golden vectors here ({used}): {listed}; do not use it here")
    return verdicts


def bundle(path: str | Path, output: Path, *, device: str = "auto") -> bool:
    """Copies a checkpoint with backbone and teacher inside: a folder to move, or to serve elsewhere.

    Returns:
        whether it needs nothing outside; a teacher that cannot go along (`routes.write_teacher`) is found by its name.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or its teacher is gone.
        BackboneError: if its backbone is gone or is another model.
    """
    folder = find(path)
    save(output, Encoder.from_pretrained(folder, device=device), read_config(folder)["training"], with_backbone=True)
    documents = read_config(Path(output))["documents"]
    return documents is None or bool(documents["bundled"])


# -- the parts ------------------------------------------------------------------------------------------


def _describe(encoder: Encoder, record: dict[str, Any], parts: Parts) -> dict[str, Any]:
    model, backbone = encoder.model, encoder.model.backbone
    name = backbone.name
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    return {
        "format": "foresay",
        "format_version": FORMAT,
        "foresay_version": __version__,
        "backbone": {
            "name": name,
            "revision": backbone.revision,
            "dtype": backbone.number_type,
            "bundled": parts.backbone,
        },
        "thought": model.thought,
        "compression": model.compression,
        "hidden": backbone.hidden_size,
        "dim": model.dim,
        "template": model.template,
        "readout": model.readout,
        "lora_rank": model.adapter.rank if model.adapter else 0,
        "dims": list(encoder.dims),
        "decodes": encoder.decodes,
        "max_tokens": encoder.max_tokens,
        "prompts": encoder.prompts,
        "documents": encoder.document_teacher and {**asdict(encoder.document_teacher), "bundled": parts.teacher},
        "sentence_transformers": {"queries": parts.plain, "documents": parts.documents},
        "training": record,
        "environment": environment(backbone.device),
    }


def _document_teacher(folder: Path, described: dict[str, Any] | None) -> DocumentTeacher | None:
    if described is None:
        return None
    if described["bundled"]:
        return DocumentTeacher(str(folder / DOCUMENT), None, described["max_tokens"], turned=True)
    return DocumentTeacher(**{name: value for name, value in described.items() if name != "bundled"})


def _load_backbone(folder: Path, described: dict[str, Any], device: str, dtype: str) -> Backbone:
    dtype = described["dtype"] if dtype == "auto" else dtype
    if described["bundled"]:
        copies = [home for home in (folder / QUERY / COPY, folder / COPY) if home.is_dir()]
        return Backbone.load(str(copies[0] if copies else folder / COPY), device=device, dtype=dtype)
    name = described["name"]
    if Path(name).is_absolute() and not Path(locate(name)).is_dir():
        raise BackboneError(
            f"the checkpoint {folder} needs its backbone at {name}, which is gone; put it back, or pass the new "
            "place as backbone=Backbone.load(...) (command line: --backbone)"
        )
    return Backbone.load(name, revision=described["revision"], device=device, dtype=dtype)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete: get or make it again") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); get or make the checkpoint again") from None


def appear(draft: Path, folder: Path) -> None:
    """Moves a finished draft to its place; what an earlier save left there and this one lacks goes."""
    for path in draft.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes for the owner alone; a checkpoint is there to be shared
        sync(path)
    sync(draft)
    if not folder.exists():
        os.replace(draft, folder)
        sync(folder.parent)
        return
    before = json.loads((folder / CONFIG).read_text())["files"] if (folder / CONFIG).is_file() else []
    (folder / CONFIG).unlink(missing_ok=True)
    for name in {*before, *os.listdir(draft)}:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
    for path in sorted(draft.iterdir(), key=lambda p: p.name == CONFIG):
        os.replace(path, folder / path.name)
    sync(folder)
    draft.rmdir()
