"""The model card: what a checkpoint is, how to load it, what it was made from, and how it did.

In: the checkpoint's own config, so that the card cannot say something else than the files. Out: README.md.
"""

from pathlib import Path
from typing import Any

_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [foresay, sentence-transformers, feature-extraction, llm2vec-gen]
{base_model}---

# Embeddings of what {backbone} would answer

A Foresay checkpoint: {tokens} trained special tokens and two linear maps
on a frozen language model, after LLM2Vec-Gen ([arXiv 2603.10913](https://arxiv.org/abs/2603.10913)).
A question's embedding lies near its answer's; an embedding's soft prompt decodes to text.

```python
from foresay import Encoder

encoder = Encoder.from_pretrained("PATH")
queries = encoder.encode_query(["What does frugal mean?"])         # (1, {dim})
documents = encoder.encode_document(["Careful with money."])       # (1, {dim})
encoder.similarity(queries, documents)
encoder.decode(["What does frugal mean?"])                         # what the embedding stands for
```

The same folder in the plain library, same vectors, no remote code:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
queries = model.encode_query(["What does frugal mean?"])
```

`foresay verify PATH` recomputes the golden vectors stored with it and fails if this machine gives others.

| | |
|---|---|
{facts}

{figures}"""


_SHOWN = {
    "held_out_rows": "rows kept out of training",
    "held_out_loss": "loss on them",
    "cosine": "cosine of their embeddings with their targets",
    "retrieval@1": "of them have their own target as the nearest of all",
    "alignment": "alignment loss of the last batch, mean squared error",
    "reconstruction": "reconstruction loss of the last batch, nats a token",
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
        "longest input": f"{config['max_tokens']} tokens",
        **{f"prompt for a {kind}": f"`{prompt}`" if prompt else "none" for kind, prompt in config["prompts"].items()},
        **{f"made from: {key}": value for key, value in training.get("pairs", {}).items()},
        **{f"training: {key}": value for key, value in training.get("config", {}).items() if "prompt" not in key},
        "foresay": config["foresay_version"],
    }
    figures = training.get("figures")
    text = _CARD.format(
        backbone=name,
        base_model=f"base_model: {backbone['name']}\n" if is_hub_id else "",
        tokens=config["thought"] + config["compression"],
        dim=config["dim"],
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        figures=_figures(training["step"], figures) if figures else "",
    )
    (folder / "README.md").write_text(text)


def _figures(step: int, figures: dict[str, float]) -> str:
    rows = "\n".join(f"| {figures[name]:.4g} | {what} |" for name, what in _SHOWN.items() if name in figures)
    title = f"Figures of step {step}:"
    return f"{title}\n\n| | |\n|---|---|\n{rows}\n"
