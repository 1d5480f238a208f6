"""The card of a teacher: what it is, how to load it, what made it.

In: the contents of its own teacher.json, so that the card cannot say something else than the files. Out: README.md.
"""

from pathlib import Path
from typing import Any

_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [foresay, sentence-transformers, feature-extraction, llm2vec, peft, lora]
{base_model}---

# A teacher made of {backbone}

An unsupervised text embedder after LLM2Vec ([arXiv 2404.05961](https://arxiv.org/abs/2404.05961)): {backbone} reads
a text in both directions, with a LoRA adapter trained on unlabelled texts, and the mean of the text's states is its
vector. Texts go in without an instruction. Made by `foresay teacher`, to set the targets of LLM2Vec-Gen training:

```sh
foresay teach responses.jsonl -t PATH -o targets/
```

The same folder in the plain library, same vectors, no remote code (with peft, and transformers 5.2 or later: an older
one reads in one direction only and says nothing, so its vectors are worth less):

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
```

The adapter names its backbone and does not hold it. What made it:

| | |
|---|---|
{facts}
"""


_WHITENED = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [foresay, sentence-transformers, feature-extraction, whitening]
---

# A whitened teacher: {below}

An unsupervised text embedder: the vectors of {below}, whitened by one linear map. {how} Made by `foresay whiten`, or
`foresay teacher --closed-form`, to set the targets of LLM2Vec-Gen training:

```sh
foresay teach responses.jsonl -t PATH -o targets/
```
{plain}
An index of the vectors before whitening needs no new embedding: `foresay whiten-index old.npy -t PATH -o new.npy`.

| | |
|---|---|
{facts}
"""
_WHITENED_PLAIN = """
The same folder in the plain library, same vectors up to rounding, no remote code (with peft, and transformers 5.2 or
later):

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
```
"""


def write_whitened_card(folder: Path, about: dict[str, Any]) -> None:
    """Writes README.md of a whitened teacher from the contents of its teacher.json."""
    choice = about["whitening"]
    if "backbone" in about:
        below = f"{Path(about['backbone']['name']).name}, read in both directions, mean pooled"
        how = "An adapter trained on unlabelled texts is below it." if about["adapter"] else "Nothing was trained."
    else:
        below, how = Path(about["teacher"]["name"]).name, "That model goes by name and is not in the folder."
    facts = {
        "axes": choice["axes"],
        "strength": choice["strength"],
        "pairs of texts it was estimated from": choice["pairs"],
        "held-out texts find their partners, mean reciprocal rank": f"{choice['found']:.3f}",
        "the same before whitening": f"{choice['before']:.3f}",
        "longest text": f"{about['max_tokens']} tokens",
        "foresay": about["foresay_version"],
    }
    text = _WHITENED.format(
        below=below,
        how=how,
        plain=_WHITENED_PLAIN if about["plain"] else "",
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_card(folder: Path, about: dict[str, Any]) -> None:
    """Writes README.md from the contents of teacher.json."""
    base, training = about["backbone"], about["training"]
    is_hub_id = not Path(base["name"]).is_absolute() and "/" in base["name"]
    facts = {
        "backbone": f"{Path(base['name']).name}, revision {base['revision'] or 'not pinned'}, {base['dtype']}",
        "texts": f"{training['texts']}, SHA-256 {training['texts_sha256'][:16]}…",
        **{f"training: {key}": value for key, value in training["config"].items()},
        "foresay": about["foresay_version"],
    }
    text = _CARD.format(
        backbone=Path(base["name"]).name,
        base_model=f"base_model: {base['name']}\n" if is_hub_id else "",
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
