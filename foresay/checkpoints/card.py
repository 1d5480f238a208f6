"""The model card: what a checkpoint is, how to load it, what it was made from, and how it did.

In: the checkpoint's own config, so that the card cannot say something else than the files. Out: README.md.
"""

from pathlib import Path
from typing import Any

_CARD = """\
---
{library}pipeline_tag: feature-extraction
tags: [foresay, {tag}feature-extraction, llm2vec-gen]
{base_model}---

# Embeddings of what {backbone} would answer

A Foresay checkpoint: {tokens} special tokens and two linear maps, {how},
on a frozen language model, after LLM2Vec-Gen ([arXiv 2603.10913](https://arxiv.org/abs/2603.10913)).
A question's embedding lies near its answer's{decodes}.

```python
from foresay import Encoder

encoder = Encoder.from_pretrained("PATH")
queries = encoder.encode_query(["What does frugal mean?"])         # (1, {dim})
documents = encoder.encode_document(["Careful with money."])       # (1, {dim})
encoder.similarity(queries, documents)
{decoding}```

{plain}

`foresay verify PATH` recomputes the golden vectors stored with it and fails if this machine gives others.

| | |
|---|---|
{facts}

{figures}"""


_PLAIN = """\
The same folder in the plain library, same vectors, no remote code:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = model.encode_query(["What does frugal mean?"])
{documents}```"""
_PLAIN_DOCUMENTS = """\
documents = model.encode_document(["Careful with money."])
"""
_TAUGHT = """

Documents are embedded by the teacher `{name}`, bare, so an index that it made can be searched as it is.
`encode_document` runs it."""
_QUERIES_ONLY = """ In the plain library this folder embeds queries alone: there, load the teacher for the documents."""
_NOT_PLAIN = """\
It reads {what}, which the modules of plain sentence-transformers cannot express. With this
package it has that library's interface too, for all that takes one of its models:

```python
from foresay import Encoder, as_sentence_transformer

model = as_sentence_transformer(Encoder.from_pretrained("PATH"))
queries = model.encode_query(["What does frugal mean?"])
```"""

_DECODING = """\
encoder.decode(["What does frugal mean?"])                         # what the embedding stands for
"""
_SAID = {"thought", "compression", "template", "readout", "dims", "documents", "query_prompt", "document_prompt"}
"""Options that the card tells in words of its own."""

_SHOWN = {
    "held_out_rows": "rows kept out of training",
    "penalty": "ridge penalty chosen on them",
    "held_out_loss": "loss on them",
    "cosine": "cosine of their embeddings with their targets",
    "retrieval@1": "of them have their own target as the nearest of all",
    "alignment": "alignment loss of the last batch",
    "reconstruction": "reconstruction loss of the last batch, nats a token",
    "contrast": "contrast of the last batch, nats a row",
}


def write_card(folder: Path, config: dict[str, Any]) -> None:
    """Writes README.md from the checkpoint's config."""
    backbone = config["backbone"]
    name = Path(backbone["name"]).name
    is_hub_id = not Path(backbone["name"]).is_absolute() and "/" in backbone["name"]
    training = config["training"]
    facts = {
        "backbone": f"{name}, revision {backbone['revision'] or 'not pinned'}, {backbone['dtype']}",
        "special tokens": f"{config['thought']} thought, {config['compression']} compression",
        "template": config["template"],
        "readout": config["readout"],
        "shorter embeddings": ", ".join(map(str, config["dims"])) or "none",
        "documents are embedded by": (config["documents"] or {"name": "the checkpoint"})["name"],
        "longest input": f"{config['max_tokens']} tokens",
        "prompt for a query": _quoted(config["prompts"]["query"]),
        "prompt for a document": "none" if config["documents"] else _quoted(config["prompts"]["document"]),
        "prompts for tasks of mteb": len(config["prompts"]) - 2,
        **{f"made from: {key}": value for key, value in training.get("pairs", {}).items()},
        **{f"training: {key}": value for key, value in training.get("config", {}).items() if key not in _SAID},
        **{f"made with: {key}": value for key, value in config["environment"].items()},
    }
    figures = training.get("figures")
    plain, both = (config["sentence_transformers"][side] for side in ("queries", "documents"))
    what = "through a LoRA adapter" if config["lora_rank"] else "every layer of the language model"
    taught = _TAUGHT.format(**config["documents"]) if config["documents"] else ""
    text = _CARD.format(
        library="library_name: sentence-transformers\n" if plain else "",
        tag="sentence-transformers, " if plain else "",
        how="found in closed form" if training.get("method") == "closed form" else "trained",
        decodes="; an embedding's soft prompt decodes to text" if config["decodes"] else "",
        decoding=_DECODING if config["decodes"] else "",
        plain=(_PLAIN.format(documents=_PLAIN_DOCUMENTS if both else "") if plain else _NOT_PLAIN.format(what=what))
        + taught
        + (_QUERIES_ONLY if plain and not both else ""),
        backbone=name,
        base_model=f"base_model: {backbone['name']}\n" if is_hub_id else "",
        tokens=config["thought"] + config["compression"],
        dim=config["dim"],
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        figures=_figures(training.get("step"), figures) if figures else "",
    )
    (folder / "README.md").write_text(text)


def _quoted(prompt: str) -> str:
    return f"`{prompt}`" if prompt else "none"


def _figures(step: int | None, figures: dict[str, float]) -> str:
    rows = "\n".join(f"| {figures[name]:.4g} | {what} |" for name, what in _SHOWN.items() if name in figures)
    title = "Figures:" if step is None else f"Figures of step {step}:"
    return f"{title}\n\n| | |\n|---|---|\n{rows}\n"
