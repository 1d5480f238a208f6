"""What an index costs at 10,000 to 1,000,000 rows, and ingest against bare encode and bare LanceDB.

    python benchmarks/retrieval_system.py size DOCUMENTS.jsonl QUERIES.jsonl --rows 10000,100000,1000000 \\
        --work /tmp/size -o benchmarks/results/retrieval_size.md
    python benchmarks/retrieval_system.py ingest DOCUMENTS.jsonl -o benchmarks/results/retrieval_ingest.md

In: documents, queries, sizes. Out: Markdown tables.
Careful: `size` fills its indexes by `Index.add` with texts and vectors drawn around those of DOCUMENTS: a real vector,
moved by .4 of the difference of two others, so the spread is that of the real ones. Queries are real. A second run with
the same --work goes on where the first was killed. Times are of processor time, all threads, which other programs on
the machine change less than the clock.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np

from foresay import Encoder, Index
from foresay.backbone import Backbone
from foresay.config import IndexConfig
from foresay.data.queries import Query, read_queries
from foresay.embedded import Array, unit
from foresay.model import Model
from foresay.retrieval.documents import Document, read_documents
from foresay.retrieval.numbers import number

DIM, MOVED, QUERIES, WORDS = 384, 0.4, 100, 40
INTRODUCTION = (
    "Texts and vectors are drawn around those of {documents}, as {checkpoint} embeds them; {queries} queries of that "
    "set are real, and each finds 10 documents. Times are of processor time, all threads: medians."
)


class Around:
    """Texts and vectors drawn around real ones, the same for the same number.

    Attributes:
        texts: the real ones.
        vectors: theirs, (texts, dim) of length 1.
    """

    def __init__(self, texts: Sequence[str], vectors: Array) -> None:
        """Takes real texts and their vectors."""
        self.texts, self.vectors = texts, vectors

    def document(self, i: int) -> Document:
        """A real text with five words of another one and a number."""
        random = np.random.default_rng(i)
        other = self.texts[int(random.integers(len(self.texts)))].split()
        added = " ".join(other[int(j)] for j in random.integers(len(other), size=5))
        text = f"{self.texts[i % len(self.texts)]} {added} {i}"
        return Document(str(i), text, {"year": 1900 + i % 100})

    def embed(self, texts: Sequence[str], **_: object) -> Array:
        """Vectors (texts, dim) of such texts."""
        picks = np.array([[int(text.rsplit(" ", 1)[1]), number(text), number(text[::-1])] for text in texts], object)
        base, left, right = ((picks[:, k] % len(self.texts)).astype(int) for k in range(3))
        return unit(self.vectors[base] + MOVED * (self.vectors[left] - self.vectors[right]))


def real(encoder: Encoder, documents: Path, work: Path) -> Around:
    """The real texts and their vectors, made once."""
    texts = [" ".join(item.text.split()[:WORDS]) for item in read_documents(documents) if isinstance(item, Document)]
    place = work / "real.npy"
    if not place.is_file():
        np.save(place, encoder.encode_document(texts, on_cut="ignore", show_progress_bar=True))
    vectors = np.load(place)
    if len(vectors) != len(texts):
        raise click.ClickException(f"{place} is of other documents; delete {work}")
    return Around(texts, unit(vectors))


def peak_mb() -> float:
    """Most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def median_ms(call: Callable[[int], object], times: int) -> float:
    """Median milliseconds of processor time of a call, after one that warms up."""
    call(0)
    spent = []
    for i in range(times):
        begin = time.process_time()
        call(i)
        spent.append(time.process_time() - begin)
    return 1000 * float(np.median(spent))


def searched(encoder: Encoder, path: Path, queries: Sequence[str]) -> dict[str, float]:
    """Milliseconds of each way to search one index, and recall@10 of its vector index on these queries."""
    index = Index.open(path, encoder)
    vectors = dict(zip(queries, encoder.encode_query(list(queries)), strict=True))
    encoder.encode_query = lambda texts, **_: np.stack([vectors[t] for t in texts])  # type: ignore[method-assign]
    times = min(20, len(queries))
    found: dict[str, float] = {"recall": 1.0 if (share := index.recall(queries)) is None else share}
    for name, exact, mode, where in WAYS:
        index.exact = exact
        found[name] = median_ms(lambda i: index.search(queries[i], mode=mode, where=where), times)  # noqa: B023
    return found


WAYS = (
    ("exact", True, "dense", None),
    ("index", False, "dense", None),
    ("words", False, "words", None),
    ("hybrid", False, "hybrid", None),
    ("filtered", False, "hybrid", "json_get_int(metadata, 'year') > 1990"),
)
COLUMNS = {
    "rows": "rows",
    "rate": "rows added a second, without embedding",
    "building": "building indexes, s",
    "added": "peak memory while adding, MB",
    "indexed": "and while the indexes are built, MB",
    "disk": "disk, MB",
    **{name: f"{name}, ms" for name, *_ in WAYS},
    "recall": "recall@10 of the vector index",
}
"""What a line of the table holds."""


@click.group()
def main() -> None:
    """Two tables."""


@main.command()
@click.argument("documents", type=click.Path(path_type=Path, exists=True))
@click.argument("queries", type=click.Path(path_type=Path, exists=True))
@click.option("--rows", default="10000,100000,1000000", show_default=True)
@click.option("--checkpoint", default="smollm2", show_default=True)
@click.option("--ann", default=50_000, show_default=True, help="Rows from which there is a vector index.")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder of the indexes; they stay there.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def size(documents: Path, queries: Path, rows: str, checkpoint: str, ann: int, work: Path, output: Path) -> None:
    """Adding, memory, disk, milliseconds a query and recall, by the number of rows."""
    work.mkdir(parents=True, exist_ok=True)
    texts = [query.text for query in read_queries(queries) if isinstance(query, Query)][:QUERIES]
    lines = [INTRODUCTION.format(documents=documents.parent.name, queries=len(texts), checkpoint=checkpoint)]
    lines += ["", f"| {' | '.join(COLUMNS.values())} |", "|---" * len(COLUMNS) + "|"]
    for count in map(int, rows.split(",")):
        done = work / f"rows-{count}.json"
        if not done.is_file():
            call = [sys.executable, __file__, "fill", checkpoint, str(documents), str(work), str(count), str(ann)]
            subprocess.run(call, check=True)  # a process of its own, whose peak memory is that of adding
        encoder = Encoder.from_pretrained(checkpoint, device="cpu")
        around = real(encoder, documents, work)
        embedded = median_ms(lambda i: encoder.encode_query(texts[i]), min(10, len(texts)))  # noqa: B023
        encoder.encode_document = around.embed  # type: ignore[method-assign]
        line = {**json.loads(done.read_text()), **searched(encoder, work / f"rows-{count}", texts), "rows": count}
        line["rate"] = line["new"] / max(line["seconds"], 1e-9)
        lines.append("| " + " | ".join(shown(name, line[name]) for name in COLUMNS) + " |")
        click.echo(lines[-1])
        ending = f"Embedding a query takes {embedded:.0f} ms besides."
        output.write_text("\n".join([*lines, "", ending]) + "\n", encoding="utf-8")


@main.command(hidden=True)
@click.argument("checkpoint")
@click.argument("documents", type=click.Path(path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.argument("rows", type=int)
@click.argument("ann", type=int)
def fill(checkpoint: str, documents: Path, work: Path, rows: int, ann: int) -> None:
    """Fills one index; notes seconds of processor time and peak memory, and these of the building of its indexes."""
    encoder = Encoder.from_pretrained(checkpoint, device="cpu")
    around = real(encoder, documents, work)
    encoder.encode_document = around.embed  # type: ignore[method-assign]
    path, seen = work / f"rows-{rows}", {"added": peak_mb(), "seconds": 0.0}
    index = Index.open(path, encoder) if path.exists() else Index.create(path, encoder, IndexConfig(ann_rows=ann))
    begin = time.process_time()

    def progress(*_: object) -> None:
        seen.update(added=peak_mb(), seconds=time.process_time() - begin)

    new = index.add((around.document(i) for i in range(rows)), progress).new
    seen |= {"building": time.process_time() - begin - seen["seconds"], "indexed": peak_mb(), "new": new}
    seen["disk"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**20
    (work / f"rows-{rows}.json").write_text(json.dumps(seen), encoding="utf-8")


def shown(name: str, value: float) -> str:
    """One cell."""
    return f"{value:.3f}" if name == "recall" else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


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


if __name__ == "__main__":
    main()
