"""What fusing meaning with words buys: dense, BM25 and hybrid rankings of the same index.

    python benchmarks/retrieval.py --data ../shared/data --cache cache/ --minilm FOLDER \\
        -o benchmarks/results/retrieval.md

In: folders of retrieval sets, and vectors that other benchmarks keep (smollm2.py); what is missing is embedded.
Out: Markdown tables of nDCG@10, each with the paired difference to dense alone and its 95 % bootstrap interval.
Careful: rankings come from the product's own table (LanceDB: exact cosines, BM25 with English stemming) and its own
fusion, so what is measured is what `foresay search --mode` does. A document is one chunk here, of at most 96 tokens.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from foresay.embedded import unit
from foresay.evaluation import Task, interval
from foresay.retrieval.chunks import Chunk
from foresay.retrieval.numbers import blocks
from foresay.retrieval.parts import Part, table_of
from foresay.retrieval.searching import MODES, ranked
from foresay.retrieval.store import Store, schema
from foresay.teachers.whitening import choose_whitening
from kept import Array, Kept
from smollm2 import training_rows
from smollm2_packaged import Packaged
from smollm2_reading import LONGEST, TOKENS

ROWS, TOP = 4500, 10
Scores = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Space:
    """A way to embed: queries and documents to vectors."""

    name: str
    queries: Callable[[Sequence[str]], Array]
    documents: Callable[[Sequence[str]], Array]


def ndcg(found: Sequence[int], relevance: NDArray[np.float64]) -> float:
    """nDCG@10 with linear gain, as trec_eval computes it; `found` are rows of documents, best first."""
    discount = 1 / np.log2(np.arange(TOP) + 2)
    gains = relevance[list(found[:TOP])]
    ideal = -np.sort(-relevance)[:TOP]
    return float((gains * discount[: len(gains)]).sum() / (ideal * discount[: len(ideal)]).sum())


def scores(space: Space, task: Task, most: int) -> Scores:
    """nDCG@10 of each query, by mode."""
    answered = np.flatnonzero(task.relevance.sum(axis=1) > 0)
    picks = np.random.default_rng(1).permutation(answered)[:most]
    queries = [task.queries[i] for i in picks]
    vectors, asked = unit(space.documents(task.documents)), unit(space.queries(queries))
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder), "rows-1", vectors.shape[1], {})
        for block in blocks(range(len(vectors)), 4096):
            parts = [Part(str(i), 0, Chunk(task.documents[i], 0, 0), "{}", "") for i in block]
            store.append(table_of(parts, vectors[block], {}, schema(vectors.shape[1], {})))
        store.finish()
        made: Scores = {}
        for mode in MODES:
            hits = [ranked(store, text, one, (TOP, mode, None)) for text, one in zip(queries, asked, strict=True)]
            found = [[int(hit.id) for hit in row] for row in hits]
            made[mode] = np.array([ndcg(row, task.relevance[i]) for row, i in zip(found, picks, strict=True)])
    return made


# -- spaces ----------------------------------------------------------------------------------------------


def smollm2(cache: Path, data: Path) -> list[Space]:
    """SmolLM2 as the README has it, from kept vectors: whitened teacher, one pass, and both added.

    The map is ridge regression from the mean state of ten untrained special tokens to the mean of the whitened vectors
    of query and response.
    """
    taught, read = Kept(cache, f"smollm2-both-{LONGEST}"), Kept(cache, "smollm2-tokens-chat-seed0")
    rows = training_rows(data, ROWS)
    asked, answered = (taught.read([row[name] for row in rows]) for name in ("query", "response"))
    whitening, _ = choose_whitening(asked, answered, seed=0)

    def states(texts: Sequence[str]) -> Array:
        width = asked.shape[1]
        found: Array = read.read(texts, slice(0, TOKENS * width)).reshape(len(texts), TOKENS, width).mean(axis=1)
        return found

    train = states([row["query"] for row in rows])
    center, spread = train.mean(axis=0), train.std(axis=0) + 1e-6
    target = (unit(whitening(asked)) + unit(whitening(answered))) / 2
    fitted = Ridge(alpha=0.3 * len(train)).fit((train - center) / spread, target)

    def teacher(texts: Sequence[str]) -> Array:
        return whitening(taught.read(texts))

    def one_pass(texts: Sequence[str]) -> Array:
        found: Array = np.asarray(fitted.predict((states(texts) - center) / spread), np.float32)
        return found

    def both(texts: Sequence[str]) -> Array:
        return unit(one_pass(texts)) + unit(teacher(texts))

    return [
        Space("SmolLM2, one pass", one_pass, teacher),
        Space("SmolLM2, one pass and the teacher's query vector", both, teacher),
        Space("SmolLM2's whitened teacher on the query", teacher, teacher),
    ]


def as_packaged(cache: Path) -> Space:
    """The packaged checkpoint of SmolLM2 and its teacher."""
    packaged = Packaged(cache)
    return Space(
        "SmolLM2, as packaged",
        lambda texts: packaged.as_packaged(list(texts), "queries"),
        lambda texts: packaged.teacher(list(texts)),
    )


def minilm(cache: Path, folder: str) -> Space:
    """all-MiniLM-L6-v2 on the bare query: a strong embedder, trained on a billion pairs."""
    from foresay.config import TeachConfig
    from foresay.teachers.load import load_teacher

    teacher = load_teacher(folder, device="cpu", config=TeachConfig(max_tokens=LONGEST))
    kept = Kept(cache, f"minilm-{LONGEST}")

    def embed(texts: Sequence[str]) -> Array:
        kept.fill(texts, teacher.embed, "minilm")
        return kept.read(texts)

    return Space("all-MiniLM-L6-v2", embed, embed)


# -- the tables ------------------------------------------------------------------------------------------


def table(space: Space, found: dict[str, Scores]) -> str:
    """A row a set, and the mean over the sets."""
    head = "| set | queries | dense | words (BM25) | hybrid | hybrid − dense | hybrid − words |\n" + "|---" * 7 + "|"
    body = []
    for name, made in found.items():
        cells = [f"{made[mode].mean():.3f}" for mode in ("dense", "words", "hybrid")]
        for other in ("dense", "words"):
            low, high = interval(made["hybrid"] - made[other])
            cells.append(f"{(made['hybrid'] - made[other]).mean():+.3f} ({low:+.3f} to {high:+.3f})")
        body.append(f"| {name} | {len(made['dense'])} | {' | '.join(cells)} |")
    means = {mode: np.mean([made[mode].mean() for made in found.values()]) for mode in MODES}
    cells = [f"{means[mode]:.3f}" for mode in ("dense", "words", "hybrid")]
    gains = [f"{means['hybrid'] - means[other]:+.3f}" for other in ("dense", "words")]
    body.append(f"| mean | | {' | '.join(cells + gains)} |")
    return f"## {space.name}\n\n{head}\n" + "\n".join(body) + "\n"


HEAD = """# Dense, words, hybrid

nDCG@10 on the same table: exact cosines, BM25 with English stemming, and their reciprocal-rank fusion. At most
{queries} queries a set, drawn at random (seed 1), whole corpora, documents of at most 96 tokens. In brackets the 95 %
bootstrap interval of the paired difference over the queries. The command is at the head of `benchmarks/retrieval.py`.
"""


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of retrieval sets.")
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Kept vectors.")
@click.option("--minilm", "folder", help="Folder or hub id of all-MiniLM-L6-v2, to measure it too.")
@click.option("--sets", default="theoremqa,wordnet_define,medquad,entailment_bank", show_default=True)
@click.option("--queries", default=300, show_default=True, help="Most queries of a set.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A Markdown file.")
def main(data: Path, cache: Path, folder: str | None, sets: str, queries: int, output: Path) -> None:
    """Measures each space on each set."""
    tasks = {name: Task.load(data / name) for name in sets.split(",")}
    spaces = [as_packaged(cache), *smollm2(cache, data)] + ([minilm(cache, folder)] if folder else [])
    pages = [HEAD.format(queries=queries)]
    for space in spaces:
        pages.append(table(space, {name: scores(space, task, queries) for name, task in tasks.items()}))
        click.echo(pages[-1])
        output.write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
