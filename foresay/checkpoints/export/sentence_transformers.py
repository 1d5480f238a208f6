"""A saved checkpoint to one that plain sentence-transformers opens: `SentenceTransformer(folder)`, no remote code.

In: a folder that `save` wrote. Out: further files in it, and a record that says which sides the library embeds:

    a checkpoint without sides: it embeds its         one model, in the folder itself (queries.py)
    documents itself, with the prompt of queries
    any other                                         modules.json, router_config.json    a Router between the sides:
                                                      query/                              what queries.py writes
                                                      document/                           the teacher (`Teacher.export`)
    Where the checkpoint embeds documents itself, both sides are query/, and a prompt tells them apart.

Those modules run one after another, so none of them can add what two models give. `encode_query` then fails and names
the routes, and the sum of both is the caller's line (`queries_by_both`, which is the card's).
Careful: the checkpoint is whole before and after, and at any moment between: the record lists the new files before they
appear, and says that they work when they are all there.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.modules import Router
from torch import Tensor

from ...encoder import Encoder
from ...errors import CheckpointError
from ...files import write_json
from ...outputs import sync
from ...teachers.base import LinearMap
from ..card import write_card
from ..folder import drafting, remove, settle
from ..load import COPY, DOCUMENT, QUERY
from ..record import ALONE, Exported, Record
from .layout import write_library_config
from .queries import write_backbone, write_queries
from .saving import refuse_to_lose

Array = NDArray[np.float32]
logger = logging.getLogger(__name__)


def export(folder: Path, encoder: Encoder | None = None, *, whole: bool = False, device: str = "auto") -> Record:
    """Writes what plain sentence-transformers opens, as far as its modules can express the checkpoint.

    Args:
        folder: of the checkpoint.
        encoder: one of the same backbone and teacher, if they are in memory: they are not loaded again.
        whole: put copies of backbone and teacher inside.
        device: to load the backbone on.

    Returns:
        the record as it is now.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or a file that is not the checkpoint's is in the way.
    """
    folder = Path(folder).resolve()
    record = Record.load(folder)
    backbone = None if encoder is None else encoder.model.backbone
    loaded = Encoder.from_pretrained(folder, backbone=backbone, device=device)
    if encoder is not None:
        loaded.share_teacher(encoder)
    with drafting(folder) as draft:
        exported, copied, taught = _write(draft, loaded, whole or record.backbone.bundled)
        refuse_to_lose(draft)
        documents = record.documents and replace(record.documents, bundled=taught)
        backbone_record = replace(record.backbone, bundled=copied)
        now = replace(record, backbone=backbone_record, documents=documents, sentence_transformers=exported)
        return _add(draft, folder, now)


def _add(draft: Path, folder: Path, record: Record) -> Record:
    """Moves the files of a draft into a checkpoint, whose record becomes `record`."""
    before = Record.load(folder)
    names = tuple(sorted(os.listdir(draft)))
    own = set(before.files) - set(before.sentence_transformers.files)
    wanted = (*names, "config.json") if "adapter_config.json" in names else names
    foreign = [name for name in wanted if name not in before.files and (folder / name).exists()]
    if foreign:
        raise CheckpointError(
            f"{folder / foreign[0]} does not belong to the checkpoint and is in the way of its files for plain "
            "sentence-transformers; move it elsewhere"
        )
    settle(draft)
    every = tuple(sorted({*own, *names, *before.sentence_transformers.files}))
    replace(before, files=every, sentence_transformers=Exported(files=names)).save(folder)
    for name in {*before.sentence_transformers.files, *names}:
        remove(folder / name)
    for path in draft.iterdir():
        os.replace(path, folder / path.name)
    draft.rmdir()
    record = replace(
        record,
        files=tuple(sorted({*own, *names})),
        sentence_transformers=replace(record.sentence_transformers, files=names),
    )
    write_card(folder, record)
    record.save(folder)
    sync(folder)
    return record


def _write(draft: Path, encoder: Encoder, whole: bool) -> tuple[Exported, bool, bool]:
    """Writes the files; which sides the library embeds, and whether backbone and teacher are inside."""
    if encoder.document_teacher is None:
        sides = encoder.prompts["query"] != encoder.prompts["document"]
        home = draft / QUERY if sides else draft
        home.mkdir(exist_ok=True)
        plain, copied = _write_queries(home, encoder, encoder.prompts, whole)
        if sides and plain:
            _write_router(draft, {QUERY: QUERY, DOCUMENT: QUERY}, encoder.prompts)
        _tidy(home)
        return Exported(plain, plain), copied, False
    prompts = {name: text for name, text in encoder.prompts.items() if not name.endswith("document")}
    (draft / QUERY).mkdir()
    plain, copied = _write_queries(draft / QUERY, encoder, prompts, whole)
    written = False
    if plain or whole:
        rotation = None if encoder.document_teacher.turned else encoder.model.rotation
        written = encoder.load_document_teacher().export(draft / DOCUMENT, _turn(rotation), whole=whole)
        if not written:
            name = encoder.document_teacher.name
            logger.warning("%s does not go into the folder; plain sentence-transformers embeds queries alone", name)
    if plain and encoder.query_weight and not written:
        logger.warning("without its teacher, plain sentence-transformers cannot embed the queries of this checkpoint")
        plain = False
    if plain:
        routes = {ALONE if encoder.query_weight else QUERY: QUERY, **({DOCUMENT: DOCUMENT} if written else {})}
        _write_router(draft, routes, prompts)
    _tidy(draft / QUERY)
    return Exported(plain, plain and written), copied, written and whole


def _write_queries(folder: Path, encoder: Encoder, prompts: dict[str, str], whole: bool) -> tuple[bool, bool]:
    """Whether the folder opens in the plain library, and whether it holds a copy of the backbone."""
    model = encoder.model
    if not model.every_layer and not model.adapter:
        longest = encoder.max_tokens
        return True, write_queries(folder, model, prompts=prompts, max_tokens=longest, with_backbone=whole)
    if whole:
        write_backbone(folder / COPY, model.backbone)
    return False, whole


def queries_by_both(model: Any, texts: list[str], weight: float, prompt: str) -> Array:  # noqa: ANN401
    """Queries of a checkpoint with a query weight, by a plain SentenceTransformer, as the card's two lines do it."""
    own = model.encode(texts, task=ALONE, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
    theirs = model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
    mixed: Array = (1 - weight) * own + weight * theirs
    return mixed


def _tidy(folder: Path) -> None:
    """Takes a folder away again into which nothing was written."""
    if folder.name == QUERY and not os.listdir(folder):
        folder.rmdir()


def _write_router(folder: Path, routes: dict[str, str], prompts: dict[str, str]) -> None:
    """Writes what makes one model of some sides, each with the name of the folder that embeds it.

    There is no default: other libraries call `encode` for documents too, and a text that does not say which side it is
    on would silently be embedded as a query. The library raises and names `task` instead.
    Each is a SentenceTransformer of its own: only as such has a module with an adapter a folder that is the root.
    """
    router = {
        "types": dict.fromkeys(routes.values(), "sentence_transformers.SentenceTransformer"),
        "structure": {route: [home] for route, home in routes.items()},
        "parameters": {"default_route": None, "allow_empty_key": False},
    }
    write_json(folder / Router.config_file_name, router)
    entry = {"idx": 0, "name": "0", "path": "", "type": f"{Router.__module__}.{Router.__name__}"}
    write_json(folder / "modules.json", [entry])
    write_library_config(folder, prompts)


def _turn(rotation: Tensor | None) -> LinearMap | None:
    """What turns a teacher's vectors into the embedding's axes."""
    if rotation is None:
        return None
    weight = np.ascontiguousarray(rotation.detach().cpu().numpy().T)
    return LinearMap(weight, np.zeros(len(weight), np.float32))
