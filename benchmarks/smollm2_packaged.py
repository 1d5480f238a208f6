"""What the packaged checkpoint of SmolLM2 finds: trained tokens, beside its teacher.

    python benchmarks/smollm2_packaged.py --data ../shared/data --cache cache/ \\
        --output benchmarks/results/smollm2_packaged.md --picture docs/pictures/smollm2.png

In: labelled sets, and the cache that `smollm2.py` fills, where the teacher's vectors are. Out: one table. One
checkpoint, so the intervals say how sure the items of a set are, and not how another training would have ended.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from foresay import Encoder
from foresay.teachers.whitened import WhitenedTeacher
from kept import Kept
from smollm2_reading import Reader
from smollm2_sets import Array, LabelledSet, all_sets, unit
from smollm2_tables import BASE, Found, draw, table

SHOWN = {
    "the model itself, mean pooled": ("the model itself, mean pooled", "#94a3b8"),
    BASE: ("the same, whitened: the teacher", "#334155"),
    "Foresay, one pass": ("Foresay, one pass", "#93c5fd"),
    "Foresay, as packaged": ("Foresay, as packaged", "#2563a8"),
}
"""Methods, each with its label and colour in the picture."""


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--picture", required=True, type=click.Path(path_type=Path))
def main(data: Path, cache: Path, output: Path, picture: Path) -> None:
    """Writes the table after each set, and the picture at the end."""
    torch.set_num_threads(1)
    encoder = Encoder.from_pretrained("smollm2", device="cpu")
    alone, weight = encoder.with_query_weight(0), encoder.query_weight
    reader, teacher = Reader(encoder.model.backbone, cache, "smollm2"), encoder.load_document_teacher()
    assert isinstance(teacher, WhitenedTeacher)
    whitening, kept = teacher.whitening, Kept(cache, "smollm2-packaged")

    def embed(texts: Sequence[str]) -> Array:
        return np.asarray(alone.encode_query(list(texts), on_cut="ignore"), np.float32)

    found: Found = {name: {} for name in SHOWN}
    done: list[LabelledSet] = []
    for one in all_sets(data):
        kept.fill(one.queries, embed, one.name)
        own, asked = unit(kept.read(one.queries)), reader.vectors(one.queries)
        passages = reader.vectors(one.documents) if one.documents else asked[:0]
        space, whitened = unit(whitening(passages)), unit(whitening(asked))
        ways = (
            (asked, unit(passages)),
            (whitened, space),
            (own, space),
            ((1 - weight) * own + weight * whitened, space),
        )
        for name, (queries, documents) in zip(found, ways, strict=True):
            found[name][one.name] = [one.items(unit(queries), documents)]
        done.append(one)
        parts = [done[:5], done[5:11], done[11:]]
        tables = [table(found, list(found), part, gains=number < 2) for number, part in enumerate(parts) if part]
        output.write_text(HEAD + "\n".join(tables))
    draw(found, SHOWN, done[:11], picture)


HEAD = """# The packaged checkpoint of SmolLM2

Trained tokens and reconstruction maps (1,300 steps of 16 rows on first sentences), alignment map in closed form from
11,992 answers of 96 tokens, half of the question in the target. Documents by `smollm2-teacher`, at most 96 tokens of
each. In brackets the 95 % bootstrap interval of the difference to that teacher. Sets and
sizes: [smollm2.md](smollm2.md).

"""


if __name__ == "__main__":
    main()
