"""What an index costs: latency and recall by size, ingest against bare encode and bare LanceDB, memory while it fills.

    python benchmarks/retrieval_system.py latency --rows 10000,100000 -o benchmarks/results/retrieval_latency.md
    python benchmarks/retrieval_system.py ingest DOCUMENTS.jsonl -o benchmarks/results/retrieval_ingest.md
    python benchmarks/retrieval_system.py memory -o benchmarks/results/retrieval_memory.md

In: sizes, documents. Out: Markdown tables.
Careful: vectors of `latency` and `memory` are random: right for time and memory. For recall random vectors are the
hardest there are, since all their distances are alike; so a second set has clusters, as texts have. Ratios are of
processor time, which other programs on the machine change less than the clock.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from foresay import Encoder, Index
from foresay.backbone import Backbone
from foresay.embedded import Array, unit
from foresay.model import Model
from foresay.retrieval.chunks import Chunk
from foresay.retrieval.documents import Document, read_documents
from foresay.retrieval.parts import Part, table_of
from foresay.retrieval.searching import ranked
from foresay.retrieval.store import Store, schema

DIM, QUERIES, CLUSTERS = 384, 100, 1000
WORDS = [f"{a}{b}" for a in ("mo", "ka", "ri", "tu", "sel", "dan", "bo", "fi") for b in ("ra", "len", "s", "mit", "ko")]


def vectors_of(kind: str, rows: int, seed: int) -> Array:
    """Unit vectors (rows, DIM): random, or around CLUSTERS centres that all seeds share."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(rows, DIM)).astype(np.float32)
    if kind == "random":
        return unit(noise)
    centers = np.random.default_rng(0).normal(size=(CLUSTERS, DIM)).astype(np.float32)
    return unit(centers[random.integers(0, CLUSTERS, rows)] + 0.7 * noise)


def text_of(random: np.random.Generator) -> str:
    """Twenty words."""
    return " ".join(WORDS[i] for i in random.zipf(1.3, 20) % len(WORDS))


def filled(folder: Path, kind: str, rows: int, ann: bool) -> tuple[Store, float]:
    """A table of so many rows, and the seconds that its indexes took."""
    store, random = Store.create(folder, "rows-1", DIM, {}), np.random.default_rng(5)
    for number, start in enumerate(range(0, rows, 20_000)):
        count = min(20_000, rows - start)
        parts = [Part(str(start + i), 0, Chunk(text_of(random), 0, 0), "{}", "") for i in range(count)]
        store.append(table_of(parts, vectors_of(kind, count, 100 + number), {}, schema(DIM, {})))
    begin = time.process_time()
    store.tidy(1 if ann else 0)
    return store, time.process_time() - begin


def median_ms(call: Callable[[int], object], times: int) -> float:
    """Median milliseconds of processor time of a call, after one that warms up."""
    call(0)
    spent = []
    for i in range(times):
        begin = time.process_time()
        call(i)
        spent.append(time.process_time() - begin)
    return 1000 * float(np.median(spent))


def latency_row(kind: str, rows: int, ann: bool) -> str:
    """One size: exact and approximate dense search, words, hybrid; recall@10."""
    queries, random = vectors_of(kind, QUERIES, 1), np.random.default_rng(6)
    texts = [text_of(random) for _ in range(QUERIES)]
    with tempfile.TemporaryDirectory() as folder:
        store, seconds = filled(Path(folder), kind, rows, ann)
        exact = store.exactly()
        times = 10 if rows > 200_000 else 30
        cells = [median_ms(lambda i: exact.nearest(queries[i], 10, None), times)]
        recall = "–"
        if ann:
            cells.append(median_ms(lambda i: store.nearest(queries[i], 10, None), times))
            found = sum(
                len({r.id for r in exact.nearest(q, 10, None)} & {r.id for r in store.nearest(q, 10, None)})
                for q in queries
            )
            recall = f"{found / (10 * QUERIES):.3f}"
        cells.append(median_ms(lambda i: store.words(texts[i], 10, None), times))
        cells.append(median_ms(lambda i: ranked(store, texts[i], queries[i], (10, "hybrid", None)), times))
    shown = [f"{cell:.1f}" for cell in cells]
    if not ann:
        shown.insert(1, "–")
    return f"| {kind} | {rows:,} | {' | '.join(shown)} | {recall} | {seconds:.0f} |"


@click.group()
def main() -> None:
    """Three tables."""


@main.command()
@click.option("--rows", default="10000,100000,1000000", show_default=True)
@click.option("--ann", default=100_000, show_default=True, help="Most rows at which a vector index is built.")
@click.option("--kinds", default="random,clustered", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def latency(rows: str, ann: int, kinds: str, output: Path) -> None:
    """Milliseconds a query, without embedding it, and one for that."""
    lines = [
        f"Milliseconds of processor time a query, all threads, median; vectors of {DIM} numbers; the seconds of the "
        "indexes, also of processor time, hold full text and, where there is one, the vector index (HNSW). The nano "
        f"model embeds a query in {embed_ms():.0f} ms.",
        "",
        "| vectors | rows | dense, exact | dense, by index | words | hybrid | recall@10 of the index | indexes, s |",
        "|---" * 8 + "|",
    ]
    for kind in kinds.split(","):
        for count in map(int, rows.split(",")):
            lines.append(latency_row(kind, count, count <= ann))
            click.echo(lines[-1])
            output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def embed_ms() -> float:
    """Of one query, by the packaged model with ten special tokens."""
    encoder = nano()
    return median_ms(lambda i: encoder.encode_query(f"What is {WORDS[i]} {WORDS[i + 1]}?"), 10)


def nano() -> Encoder:
    """The packaged model with untrained maps: as fast as a trained one."""
    backbone = Backbone.load("nano", device="cpu")
    return Encoder(Model(backbone, thought=0, compression=10, dim=DIM, template="chat"))


@main.command()
@click.argument("documents", type=click.Path(path_type=Path, exists=True))
@click.option("--most", default=1000, show_default=True, help="Documents.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def ingest(documents: Path, most: int, output: Path) -> None:
    """`Index.add` against bare encode and a bare LanceDB table."""
    import lancedb
    import pyarrow as pa

    encoder = nano()
    items = [item for item in read_documents(documents) if isinstance(item, Document)][:most]
    encoder.encode_document([items[0].text])

    def ours(folder: Path) -> None:
        Index.create(folder / "index", encoder).add(items)

    def bare(folder: Path) -> None:
        table = None
        for start in range(0, len(items), 512):
            block = items[start : start + 512]
            vectors = encoder.encode_document([item.text for item in block], on_cut="ignore")
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
            rows = pa.table({"id": [i.id for i in block], "text": [i.text for i in block], "vector": flat})
            table = lancedb.connect(folder).create_table("bare", rows) if table is None else table.add(rows) and table

    spent: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(3):
        for name, call in (("bare", bare), ("ours", ours)):
            with tempfile.TemporaryDirectory() as folder:
                begin = time.process_time()
                call(Path(folder))
                spent[name].append(time.process_time() - begin)
    ratio = float(np.median(np.array(spent["bare"]) / np.array(spent["ours"])))
    rates = {name: len(items) / float(np.median(times)) for name, times in spent.items()}
    output.write_text(
        f"Ingest of {len(items)} documents of {documents.parent.name}, nano model, one thread, rows per second of "
        f"processor time, median of three: bare encode and bare LanceDB {rates['bare']:.1f}, `Index.add` (chunks, "
        f"digests, full-text index) {rates['ours']:.1f}: {ratio:.2f} of it.\n",
        encoding="utf-8",
    )
    click.echo(output.read_text())


FILL = "from retrieval_system import fill; import sys; fill(int(sys.argv[1]))"


@main.command()
@click.option("--rows", default="10000,40000", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def memory(rows: str, output: Path) -> None:
    """Peak memory of a process that fills an index, by its size; random vectors in place of a model."""
    lines = ["| documents added | peak memory, MB |", "|---|---|"]
    for count in rows.split(","):
        done = subprocess.run([sys.executable, "-c", FILL, count], cwd=Path(__file__).parent, stdout=-1, check=True)
        lines.append(f"| {int(count):,} | {int(done.stdout) / 1024:.0f} |")
        click.echo(lines[-1])
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def fill(rows: int) -> None:
    """Adds so many documents, and prints the peak memory in KiB."""
    encoder, random = nano(), np.random.default_rng(0)

    def embed(texts: Sequence[str], **_: object) -> Array:
        return unit(random.normal(size=(len(texts), DIM)).astype(np.float32))

    encoder.encode_document = embed  # type: ignore[method-assign]

    def items() -> Iterator[Document]:
        for i in range(rows):
            yield Document(str(i), text_of(random), {"year": i})

    with tempfile.TemporaryDirectory() as folder:
        Index.create(Path(folder) / "index", encoder).add(items())
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


if __name__ == "__main__":
    main()
