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
from foresay.teachers.whitening import Whitening
from kept import Kept
from smollm2 import RETRIEVAL, hyde
from smollm2_reading import Reader
from smollm2_sets import Array, LabelledSet, all_sets, retrieval, unit
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
    with output.open("a") as file:
        file.write("\n" + beside_hyde(data, reader, whitening, kept, weight))
    draw(found, SHOWN, done[:11], picture)


def beside_hyde(data: Path, reader: Reader, whitening: Whitening, kept: Kept, weight: float) -> str:
    """The same vectors against the written answers, on the questions that were answered, as Markdown."""
    written, found = hyde(data), Found()
    sets = [retrieval(data / name, list(written[name])) for name in RETRIEVAL]
    for one in sets:
        answers = list(written[one.name].values())
        said, asked, space = (unit(whitening(reader.vectors(texts))) for texts in (answers, one.queries, one.documents))
        own = unit(kept.read(one.queries))
        ways = {
            "HyDE": said,
            HYDE: said + asked,
            "Foresay, one pass": own,
            "Foresay, as packaged": (1 - weight) * own + weight * asked,
        }
        for name, queries in ways.items():
            found.setdefault(name, {})[one.name] = [one.items(unit(queries), space)]
    sizes = ", ".join(f"{len(one.queries)} of {one.name}" for one in sets)
    return f"Beside HyDE, which writes up to 96 tokens; questions: {sizes}.\n\n" + table(found, list(found), sets, HYDE)


HYDE = "HyDE + query"

HEAD = """# The packaged checkpoint of SmolLM2

Trained tokens and reconstruction maps (1,300 steps of 16 rows on first sentences), alignment map in closed form from
11,992 answers of 96 tokens, half of the question in the target. Documents by `smollm2-teacher`, at most 96 tokens of
each. In brackets the 95 % bootstrap interval of the difference to that teacher. Sets and
sizes: [smollm2.md](smollm2.md).

"""


if __name__ == "__main__":
    main()
