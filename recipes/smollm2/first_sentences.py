"""Responses to their first sentences: short texts that end, which a soft prompt learns to write far sooner.

    python recipes/smollm2/first_sentences.py responses.jsonl first.jsonl -m smollm2

In: responses. Out: those whose first sentence has 3 to 40 tokens, cut to as many whole sentences as 32 tokens hold, or
to that one. Lists, tables and whatever else does not end in a full stop on its first line are left out.
"""

import json
import re
from pathlib import Path

import click

from foresay.backbone import Backbone
from foresay.data.responses import read_responses

_END = re.compile(r'[.!?]"?$')
_BETWEEN = re.compile(r'(?<=[.!?])(?<!\bDr\.)(?<!\bSt\.)(?<!\bMr\.)(?<!\bU\.S\.)(?<!\b[A-Z]\.)\s+(?=["A-Z])')


def first_sentences(text: str, backbone: Backbone) -> str | None:
    """The beginning that is reconstructed; None if the text does not begin with a sentence of the right length."""
    kept, *rest = _BETWEEN.split(text.strip().split("\n")[0].strip())
    if not _END.search(kept) or not 3 <= _length(kept, backbone) <= 40:
        return None
    for sentence in rest:
        longer = f"{kept} {sentence}"
        if not _END.search(sentence) or _length(longer, backbone) > 32:
            break
        kept = longer
    return kept


def _length(text: str, backbone: Backbone) -> int:
    return len(backbone.tokenize([text])[0])


@click.command()
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("-m", "--backbone", default="smollm2", help="Whose tokens are counted.")
def main(responses: Path, output: Path, backbone: str) -> None:
    """Writes the rows that have a first sentence."""
    model = Backbone.load(backbone, device="cpu")
    with output.open("w") as file:
        for row in read_responses(responses):
            kept = first_sentences(row.response, model)
            if kept:
                line = {"id": row.id, "query": row.query, "response": kept, "finish": "stop"}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
