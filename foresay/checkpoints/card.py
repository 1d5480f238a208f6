"""The model card: what a checkpoint is, how to load it, what it was made from, and how it did.

In: the checkpoint's record, so that the card cannot say anything else than the files. Out: README.md, rendered by
huggingface_hub from `card_template.md`.
"""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..backbone_sources import is_gguf
from ..readouts import find
from .record import ALONE, Record, Training

_TEMPLATE = Path(__file__).with_name("card_template.md")
_SAID = {
    "thought",
    "compression",
    "template",
    "readout",
    "reconstruct",
    "dims",
    "documents",
    "inference_query_weight",
    "query_prompt",
    "document_prompt",
}
"""Options that the card tells in words of its own."""
_HOW = {"training": "trained", "closed form": "found in closed form", "conversion": "converted"}
_SHOWN = {
    "held_out_rows": "rows kept out of training",
    "penalty": "ridge penalty chosen on them",
    "held_out_loss": "loss on them",
    "cosine": "cosine of their embeddings with their targets",
    "retrieval@1": "of them have their own target as the nearest of all",
    "alignment": "alignment loss of the last batch",
    "reconstruction": "reconstruction loss of the last batch, nats a token",
    "held_out_reconstruction": "reconstruction loss of held-out rows, nats a token",
    "swapped": "the same, from the soft prompts of other rows: what the backbone writes anyway",
    "contrast": "contrast of the last batch, nats a row",
}
_OF_DECODING = ("reconstruction", "held_out_reconstruction", "swapped")
"""Metrics that a new alignment map leaves as they were."""


def write_card(folder: Path, record: Record) -> None:
    """Writes README.md from the checkpoint's record."""
    plain, training = record.sentence_transformers, record.training
    first = training.before or training
    metrics = {name: value for name, value in first.metrics.items() if name in _OF_DECODING} | training.metrics
    name = record.backbone.name
    drop_in = plain.queries and not record.query_weight  # the library's own snippet, `encode_query`, works
    is_hub_id = "/" in name and not Path(name).is_absolute()
    card = ModelCard.from_template(
        ModelCardData(
            base_model=name.partition(":")[0] if is_hub_id else None,
            library_name="sentence-transformers" if drop_in else None,
            pipeline_tag="feature-extraction",
            tags=[
                "foresay",
                *(["sentence-transformers"] if drop_in else []),
                "feature-extraction",
                "llm2vec-gen",
            ],
        ),
        template_path=str(_TEMPLATE),
        backbone=Path(name).name,
        tokens=record.thought + record.compression,
        dim=record.dim,
        how=_HOW[first.method],
        refitted=training.before is not None,
        by_gradient=first.method != "closed form",
        decodes=record.decodes,
        plain=plain.queries,
        bundled=record.backbone.bundled,
        converted=is_gguf(name) and not record.backbone.bundled,
        plain_documents=plain.documents,
        sides=bool(record.documents) or record.prompts["query"] != record.prompts["document"],
        document_prompt="" if record.documents else ', "prompt_name": "document"',
        unusual=_unusual(record),
        weight=f"{record.query_weight:g}",
        rest=f"{1 - record.query_weight:g}",
        weighted=record.query_weight > 0,
        alone=ALONE,
        teacher=record.documents.name if record.documents else None,
        facts=list(_facts(record).items()),
        step=training.step,
        metrics=[(f"{metrics[shown]:.4g}", what) for shown, what in _SHOWN.items() if shown in metrics],
    )
    card.save(folder / "README.md")


def _unusual(record: Record) -> str:
    """What the plain library cannot express, where it opens nothing."""
    if record.lora_rank:
        return "It reads through a LoRA adapter"
    if find(record.readout).every_layer:
        return "It reads every layer of the language model"
    return "It adds the vector of a teacher that cannot go into this folder"


def _facts(record: Record) -> dict[str, object]:
    backbone, training = record.backbone, record.training
    revision = backbone.revision or "not pinned"
    return {
        "backbone": f"{Path(backbone.name).name}, revision {revision}, {backbone.dtype}",
        "special tokens": f"{record.thought} thought, {record.compression} compression",
        "template": record.template,
        "readout": record.readout,
        "maps to the soft prompt": "one for each token" if record.reconstruct == "tokens" else "one",
        "shorter embeddings": ", ".join(map(str, record.dims)) or "none",
        "documents are embedded by": record.documents.name if record.documents else "the checkpoint",
        "the query's own part in its embedding": f"{record.query_weight:g}",
        "longest input": f"{record.max_tokens} tokens",
        "prompt for a query": _quoted(record.prompts["query"]),
        "prompt for a document": "none" if record.documents else _quoted(record.prompts["document"]),
        "prompts for tasks of mteb": len(record.prompts) - 2,
        **{f"made from: {key}": value for key, value in training.pairs.items()},
        **{f"training: {key}": value for key, value in training.config.items() if key not in _SAID},
        **_before(training.before),
        **{f"made with: {key}": value for key, value in record.environment.items()},
    }


def _before(first: Training | None) -> dict[str, object]:
    """How the special tokens and the reconstruction map were made, where the alignment map was found later."""
    if first is None:
        return {}
    return {
        **({} if first.step is None else {"special tokens: step": first.step}),
        **{f"special tokens made from: {key}": value for key, value in first.pairs.items()},
        **{f"special tokens' training: {key}": value for key, value in first.config.items() if key not in _SAID},
    }


def _quoted(prompt: str) -> str:
    return f"`{prompt}`" if prompt else "none"
