"""Queries and responses as plain texts in random order: what a teacher of the same model is trained on.

    python recipes/smollm2/training_texts.py responses.jsonl texts.jsonl

In: rows {query, response}. Out: rows {text}, each text once, in an order that depends on the texts alone.
"""

import json
import random
from pathlib import Path

import click

from foresay.data.responses import read_responses


@click.command()
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(responses: Path, output: Path) -> None:
    """Writes them."""
    rows = read_responses(responses)
    texts = sorted({text for row in rows for text in (row.query, row.response) if text.strip()})
    random.Random(0).shuffle(texts)
    output.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    click.echo(f"{output}: {len(texts)} texts")


if __name__ == "__main__":
    main()
