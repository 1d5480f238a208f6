"""What the packaged checkpoint of SmolLM2 finds: trained tokens, beside its teacher.

    python benchmarks/smollm2_packaged.py --data ../shared/data --cache cache/ \\
        --output benchmarks/results/smollm2_packaged.md --picture docs/pictures/smollm2.png

In: labelled sets, and a cache, where what the model read is kept. Out: one table. The intervals
say how sure the items of a set are. How another training would have ended, only --checkpoint of several seeds can say.
"""

from itertools import product
from pathlib import Path

import click
import torch

from smollm2 import RETRIEVAL, hyde
from smollm2_reading import Reader
from smollm2_sets import Array, LabelledSet, all_sets, retrieval, unit
from smollm2_tables import BASE, Found, draw, table
from smollm2_targets import Trained

SHOWN = {
    "the model itself, mean pooled": ("the model itself, mean pooled", "#cbd5e1"),
    "teacher, not whitened": ("the same, trained to embed", "#94a3b8"),
    BASE: ("and whitened: the teacher", "#334155"),
    "Foresay, one pass": ("Foresay, one pass", "#93c5fd"),
    "Foresay, as packaged": ("Foresay, as packaged", "#2563a8"),
}
"""Methods, each with its label and colour in the picture."""


class Packaged(Trained):
    """The packaged checkpoint and its teacher."""

    @torch.no_grad()
    def one_pass(self, texts: list[str], say: str) -> Array:
        """The embedding without the teacher's part, of length 1."""
        states = torch.from_numpy(self.states(texts, say)).to(self.model.backbone.device)
        found: Array = self.model.align(states).cpu().numpy()
        return unit(found)

    def as_packaged(self, texts: list[str], say: str) -> Array:
        """With the teacher's part."""
        own = self.one_pass(texts, say)
        return unit((1 - self.weight) * own + self.weight * self.teacher(texts))


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", "checkpoints", multiple=True, default=["smollm2"], help="Repeat it for several seeds.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--picture", required=True, type=click.Path(path_type=Path))
def main(data: Path, cache: Path, checkpoints: tuple[str, ...], device: str, output: Path, picture: Path) -> None:
    """Writes the table after each set, and the picture at the end."""
    torch.set_num_threads(1)
    found: Found = {name: {} for name in SHOWN}
    several = [Packaged(cache, checkpoint, device) for checkpoint in checkpoints]
    bare = Reader(several[0].model.backbone, cache, "smollm2")
    done: list[LabelledSet] = []
    for one in all_sets(data):
        for packaged in several:
            for name, (queries, documents) in zip(found, _ways(packaged, bare, one), strict=True):
                found[name].setdefault(one.name, []).append(one.items(queries, documents))
        done.append(one)
        parts = [done[:5], done[5:11], done[11:]]
        tables = [table(found, list(found), part, gains=number < 2) for number, part in enumerate(parts) if part]
        output.write_text(HEAD + "\n".join(tables))
    with output.open("a") as file:
        file.write("\n" + beside_hyde(data, several))
    draw(found, SHOWN, done[:11], picture)


def _ways(packaged: Packaged, bare: Reader, one: LabelledSet) -> list[tuple[Array, Array]]:
    """Vectors of a set's queries and documents, in the order of SHOWN."""
    space = packaged.teacher(one.documents)
    return [
        *((unit(reader.vectors(one.queries)), _documents(reader, one)) for reader in (bare, packaged.reader)),
        (packaged.teacher(one.queries), space),
        (packaged.one_pass(one.queries, one.name), space),
        (packaged.as_packaged(one.queries, one.name), space),
    ]


def _documents(reader: Reader, one: LabelledSet) -> Array:
    """A set's documents as a teacher embeds them that is not whitened, of length 1."""
    return unit(reader.vectors(one.documents)) if one.documents else reader.vectors(one.queries)[:0]


def beside_hyde(data: Path, several: list[Packaged]) -> str:
    """The same vectors against the written answers, on the questions that were answered, as Markdown."""
    written, found = hyde(data), Found()
    sets = [retrieval(data / name, list(written[name])) for name in RETRIEVAL]
    for packaged, one in product(several, sets):
        space, said = packaged.teacher(one.documents), packaged.teacher(list(written[one.name].values()))
        ways = {
            "HyDE": said,
            HYDE: unit(said + packaged.teacher(one.queries)),
            "Foresay, one pass": packaged.one_pass(one.queries, one.name),
            "Foresay, as packaged": packaged.as_packaged(one.queries, one.name),
        }
        for name, queries in ways.items():
            found.setdefault(name, {}).setdefault(one.name, []).append(one.items(queries, space))
    sizes = ", ".join(f"{len(one.queries)} of {one.name}" for one in sets)
    return f"Beside HyDE, which writes up to 96 tokens; questions: {sizes}.\n\n" + table(found, list(found), sets, HYDE)


HYDE = "HyDE + query"

HEAD = """# The packaged checkpoint of SmolLM2

Trained tokens and reconstruction maps (400 steps of 64 rows on first sentences), alignment map in closed form from
24,869 answers of up to 96 tokens, half of the question in the target. Documents by `smollm2-teacher`: the same model,
trained to embed (300 steps of MNTP with 64 texts, 250 of SimCSE with 128) and whitened, at most 96 tokens of each. In
brackets the 95 % bootstrap interval of the difference to that teacher. Sets and sizes: [smollm2.md](smollm2.md).

"""


if __name__ == "__main__":
    main()
