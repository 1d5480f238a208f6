"""What a real language model's embeddings find: teachers, whitening, the query's own part, and how much data it takes.

    python benchmarks/smollm2.py --backbone smollm2/ --responses recipes/smollm2/responses_96.jsonl.gz \\
        --hyde recipes/smollm2/hyde_96.jsonl.gz --data ../shared/data --cache cache/ \\
        --output benchmarks/results/smollm2.md

In: a backbone, its responses to training queries and to test queries (for HyDE), folders of retrieval sets. Out: one
Markdown file, whose tables all come from one run. No gradient anywhere: the map is ridge regression.
Be careful: what the backbone reads is kept in --cache, so a second run costs linear algebra alone. A seed draws the
training rows, the rows that choose the penalty, and what whitening holds out; the special tokens are those of seed 0.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.nn import functional

from foresay.backbone import Backbone
from foresay.batching import Budget, pad, run_by_length
from foresay.config import TeachConfig
from foresay.evaluation import Task, interval
from foresay.model import Model
from foresay.teachers.base import Teacher
from foresay.teachers.load import load_teacher
from foresay.teachers.whitening import Spectrum, choose_whitening, finds_partner
from kept import Array, Kept

TOKENS, LONGEST, HELD = 10, 96, 200
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
SEEDS = (0, 1, 2)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FIGURES = dict[str, Array]
"""Per query, averaged over the seeds, by set."""


# -- what is read once -----------------------------------------------------------------------------------


@dataclass
class Reader:
    """A backbone's states and its teacher's raw vectors, from the cache where they are there."""

    backbone: Backbone
    cache: Path
    name: str
    teacher: Teacher = field(init=False)

    def __post_init__(self) -> None:
        """The teacher in both directions, and a model with untrained special tokens."""
        config = TeachConfig(max_tokens=LONGEST)
        self.teacher = load_teacher("both-directions", self.backbone, config=config)
        self.model = Model(self.backbone, thought=0, compression=TOKENS, dim=8, template="chat", readout="tokens")
        self.taught = Kept(self.cache, f"{self.name}-both-{LONGEST}")
        self.read = Kept(self.cache, f"{self.name}-states-seed0")

    def vectors(self, texts: Sequence[str]) -> Array:
        """The unwhitened teacher's, (texts, hidden)."""
        self.taught.fill(texts, self.teacher.embed, "teacher")
        return self.taught.read(texts)

    def states(self, texts: Sequence[str], part: str) -> Array:
        """Of the special tokens, their `mean` or all `tokens`; of the `header`'s last token; or of the `prompt`."""
        self.read.fill(texts, self._states, "states")
        width = self.backbone.hidden_size
        if part in ("header", "prompt"):
            at = TOKENS + (part == "prompt")
            return self.read.read(texts, slice(at * width, (at + 1) * width))
        found = self.read.read(texts, slice(0, TOKENS * width))
        return found if part == "tokens" else found.reshape(len(texts), TOKENS, width).mean(axis=1)

    @torch.no_grad()
    def _states(self, texts: Sequence[str]) -> Array:
        model, backbone = self.model, self.backbone
        rows, _ = model.rows(list(texts), 512)
        out = torch.empty(len(rows), (TOKENS + 2) * backbone.hidden_size)

        def run(batch: Sequence[Sequence[int]]) -> torch.Tensor:
            ids, lengths = pad(batch, backbone.pad_id, left=False, device=backbone.device)
            row = torch.arange(len(batch))[:, None]
            at = lengths[:, None] + torch.arange(TOKENS)
            inputs = functional.pad(backbone.embedding(ids), (0, 0, 0, TOKENS))
            inputs = inputs.index_put((row, at), model._specials(len(batch)))
            states = backbone.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state.float()
            real = torch.arange(states.shape[1])[None] < lengths[:, None]
            real[:, : len(model.prefix_ids)] = False
            mean = (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
            return torch.cat([states[row, at].flatten(1), states[row[:, 0], lengths - 1], mean], dim=1)

        run_by_length(rows, run, [out], Budget(6144, 512, extra=TOKENS))
        return out.numpy()


def with_queries(rows: list[dict[str, Any]], folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Rows {id, response} with the query of that id, from the folders' queries."""
    texts = {row["id"]: row.get("text", row.get("query")) for one in folders for row in lines(one / "queries.jsonl")}
    return [{"query": texts[row["id"]], **row} for row in rows if row["id"] in texts or "query" in row]


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, compressed or not."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        return [json.loads(line) for line in file]


# -- linear algebra --------------------------------------------------------------------------------------


def unit(vectors: Array) -> Array:
    """Each of length 1."""
    scaled: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return scaled


def ridge(states: Array, targets: Array) -> Callable[[Array], Array]:
    """A linear map; the last `HELD` rows choose its penalty by their mean cosine."""
    center, spread = states[:-HELD].mean(axis=0), states[:-HELD].std(axis=0) + 1e-6
    x, mean = (states - center) / spread, targets[:-HELD].mean(axis=0)
    gram, cross = x[:-HELD].T @ x[:-HELD] / len(x), x[:-HELD].T @ (targets[:-HELD] - mean) / len(x)
    weights = [np.linalg.solve(gram + penalty * np.eye(len(gram), dtype=np.float32), cross) for penalty in PENALTIES]
    fits = [(unit(x[-HELD:] @ weight + mean) * unit(targets[-HELD:])).sum(axis=1).mean() for weight in weights]
    best = weights[int(np.argmax(fits))]
    return lambda states: ((states - center) / spread @ best + mean).astype(np.float32)


def ndcg(queries: Array, documents: Array, task: Task, only: Sequence[int] | None = None) -> Array:
    """nDCG@10 of each query by cosine."""
    similar = unit(queries) @ unit(documents).T
    gains = task.relevance if only is None else task.relevance[list(only)]
    top = np.argsort(-similar, axis=1, kind="stable")[:, :10]
    discount = 1 / np.log2(np.arange(10) + 2)
    found = (np.take_along_axis(gains, top, axis=1) * discount).sum(axis=1)
    ideal = (-np.sort(-gains, axis=1)[:, :10] * discount).sum(axis=1)
    scores: Array = found / np.where(ideal > 0, ideal, 1)  # a query without an answer scores 0 whoever embeds it
    return scores


# -- one seed --------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Raw vectors and states of everything that a seed draws from."""

    reader: Reader
    rows: list[dict[str, Any]]
    tasks: dict[str, Task]
    hyde: dict[str, dict[int, str]]

    def __post_init__(self) -> None:
        """Reads what is not in the cache yet."""
        self.asked = self.reader.vectors([row["query"] for row in self.rows])
        self.answered = self.reader.vectors([row["response"] for row in self.rows])
        self.queries = {name: self.reader.vectors(task.queries) for name, task in self.tasks.items()}
        self.documents = {name: self.reader.vectors(task.documents) for name, task in self.tasks.items()}
        self.written = {name: self.reader.vectors(list(found.values())) for name, found in self.hyde.items()}

    def states(self, part: str) -> tuple[Array, dict[str, Array]]:
        """Of the training queries, and of each set's."""
        train = self.reader.states([row["query"] for row in self.rows], part)
        return train, {name: self.reader.states(task.queries, part) for name, task in self.tasks.items()}


def one_seed(data: Data, seed: int, count: int, parts: Iterable[str]) -> dict[str, FIGURES]:
    """Every row of the tables, nDCG@10 of each query by set; and label-free figures under `criterion`."""
    order = np.random.default_rng(seed).permutation(len(data.rows))[:count]
    asked, answered = data.asked[order], data.answered[order]
    whitening, choice = choose_whitening(asked[:-HELD], answered[:-HELD], seed=seed)
    half = Spectrum(np.concatenate([asked, answered])).whitening(choice.axes, 0.5)
    sets = list(data.tasks)
    out: dict[str, FIGURES] = {}

    def add(name: str, queries: dict[str, Array], space: Callable[[Array], Array] = whitening) -> None:
        out[name] = {one: ndcg(queries[one], space(data.documents[one]), data.tasks[one]) for one in sets}

    add("teacher on the query, plain", data.queries, lambda vectors: vectors)
    add("teacher on the query, half-whitened", {one: half(data.queries[one]) for one in sets}, half)
    query = {one: whitening(data.queries[one]) for one in sets}
    add("**teacher on the query, whitened**", query)
    train_query, train_answer = unit(whitening(asked)), unit(whitening(answered))
    for part in parts:
        train, test = data.states(part)
        for share in SHARES[:-1] if part == "mean" else (0.5,):
            fitted = ridge(train[order], (1 - share) * train_answer + share * train_query)
            own = {one: fitted(test[one]) for one in sets}
            held = fitted(train[order[-HELD:]])
            for weight in SHARES[:-1] if part == "mean" else (0.0, 0.5):
                mixed = {one: (1 - weight) * unit(own[one]) + weight * unit(query[one]) for one in sets}
                name = f"{part}, target {share:g}, inference {weight:g}"
                add(name, mixed)
                looking = (1 - weight) * unit(held) + weight * train_query[-HELD:]
                out[name]["criterion"] = np.array([finds_partner(looking, train_answer[-HELD:])])
            if part == "mean" and share == 0.5:
                for one in sets:
                    agree = (unit(own[one]) * unit(query[one])).sum(axis=1)
                    out.setdefault("agreement", {})[one] = agree
        if part == "mean":
            plain_fit = ridge(train[order], answered)
            add(
                "published target: plain teacher, response alone",
                {one: plain_fit(test[one]) for one in sets},
                lambda v: v,
            )
            for one, found in data.hyde.items():
                only = list(found)
                answer = unit(whitening(data.written[one]))
                documents = whitening(data.documents[one])
                out.setdefault("HyDE", {})[one] = ndcg(answer, documents, data.tasks[one], only)
                both = answer + unit(query[one][only])
                out.setdefault("HyDE + query", {})[one] = ndcg(both, documents, data.tasks[one], only)
    return out


# -- the tables ------------------------------------------------------------------------------------------


def averaged(runs: Sequence[dict[str, FIGURES]]) -> dict[str, FIGURES]:
    """Each row's figures, the mean over the seeds."""
    return {
        row: {one: np.mean([run[row][one] for run in runs], axis=0) for one in found} for row, found in runs[0].items()
    }


def against(scores: Array, base: Array) -> str:
    """A mean, and the 95 % interval of its difference to another row's."""
    low, high = interval((scores - base).astype(np.float64))
    return f"{scores.mean():.3f} ({low:+.3f} to {high:+.3f})"


def table(rows: dict[str, FIGURES], names: Sequence[str], sets: Sequence[str], base: FIGURES) -> str:
    """Rows by sets, each with its difference to `base`; at the end the mean gain."""
    head = f"| query vector | {' | '.join(sets)} | mean gain |\n|---|{'---|' * (len(sets) + 1)}\n"
    body = []
    for name in names:
        found = rows[name]
        gain = np.mean([found[one].mean() / base[one].mean() - 1 for one in sets])
        cells = [f"{found[one].mean():.3f}" if found is base else against(found[one], base[one]) for one in sets]
        body.append(f"| {name} | {' | '.join(cells)} | {gain:+.0%} |")
    return head + "\n".join(body) + "\n"


HEAD = """# SmolLM2-135M-Instruct: what its embeddings find, without a gradient

{rows} training queries, responses of up to {longest} tokens, ten untrained special tokens after the chat template, one
map by ridge regression. Teacher: the same model read in both directions, mean pooled over at most {longest} tokens, and
whitened (axes and strength chosen on held-out pairs of queries and responses). It embeds the documents. nDCG@10 over
all queries of each set, mean of three seeds; in brackets the 95 % bootstrap interval of the difference to the
whitened teacher; the gain is over the same. The command is at the head of `benchmarks/smollm2.py`.
"""


@click.command()
@click.option("--backbone", required=True)
@click.option("--name", default="smollm2", help="Of the backbone, in the cache.")
@click.option("--responses", required=True, type=click.Path(path_type=Path))
@click.option("--hyde", required=True, type=click.Path(path_type=Path), help="Rows {set, id, query, response}.")
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--sets", default="theoremqa,wordnet_define,medquad,entailment_bank")
@click.option("--rows", default=4500, help="Training queries.")
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    backbone: str, name: str, responses: Path, hyde: Path, data: Path, sets: str, rows: int, cache: Path, output: Path
) -> None:
    """Writes the tables."""
    torch.set_num_threads(1)
    names = sets.split(",")
    tasks = {one: Task.load(data / one) for one in names}
    written: dict[str, dict[int, str]] = {one: {} for one in names}
    for row in lines(hyde):
        if row["set"] in tasks:
            query = with_queries([row], [data / row["set"]])[0]["query"]
            written[row["set"]][tasks[row["set"]].queries.index(query)] = row["response"]
    sources = [data / "queries_open", data / "queries_shelf"]
    reader = Reader(Backbone.load(backbone, device="cpu", dtype="bfloat16"), cache, name)
    everything = Data(
        reader,
        with_queries(lines(responses), sources)[:rows],
        tasks,
        {one: dict(sorted(w.items())) for one, w in written.items()},
    )
    parts = ("mean", "header", "prompt")
    full = averaged([one_seed(everything, seed, rows, parts) for seed in SEEDS])
    base = full["**teacher on the query, whitened**"]
    counts = [count for count in (1000, 2000, 3000) if count < rows]
    curve = {count: averaged([one_seed(everything, seed, count, ("mean",)) for seed in SEEDS]) for count in counts}
    write(output, full, base, curve | {rows: full}, everything)


def write(
    output: Path, full: dict[str, FIGURES], base: FIGURES, curve: dict[int, dict[str, FIGURES]], data: Data
) -> None:
    """The Markdown file."""
    sets, rows = list(data.tasks), max(curve)
    first = [name for name in full if "teacher" in name]
    ours = [f"mean, target {share:g}, inference {weight:g}" for share in SHARES[:-1] for weight in SHARES[:-1]]
    others = [f"{part}, target 0.5, inference {w:g}" for part in ("mean", "header", "prompt") for w in (0, 0.5)]
    small = {one: list(found) for one, found in data.hyde.items()}
    cut = {name: {one: full[name][one][small[one]] for one in sets} for name in (first[2], ours[8], ours[9], ours[10])}
    cut |= {name: full[name] for name in ("HyDE", "HyDE + query")}
    lines_ = [
        HEAD.format(rows=rows, longest=LONGEST),
        "## Teachers and floors\n",
        table(full, first, sets, base),
        "\n## The query's own part: share in the target, and share at inference (1 would be the teacher)\n",
        table(full, ours, sets, base),
        "\n## What is read: the special tokens, or, as baselines, the header's last token and the mean of the prompt\n",
        table(full, others, sets, base),
        f"\n## HyDE, on the {len(small[sets[0]])} queries a set that it wrote out ({LONGEST} tokens each)\n",
        table(cut, list(cut), sets, cut[first[2]]),
        "\n## Number of training queries (whitening, map and penalty anew)\n",
    ]
    for count, found in curve.items():
        chosen = {f"{count} queries, {name}": found[name] for name in (first[2], ours[8], ours[9], ours[10])}
        lines_.append(table(chosen, list(chosen), sets, chosen[f"{count} queries, {first[2]}"]) + "\n")
    lines_.append("\n## Label-free choice of the weights\n")
    lines_.append("| weights | held-out query finds its response, MRR | mean gain |\n|---|---|---|\n")
    for name in ours:
        gain = np.mean([full[name][one].mean() / base[one].mean() - 1 for one in sets])
        lines_.append(f"| {name} | {float(full[name]['criterion'][0]):.3f} | {gain:+.0%} |\n")
    lines_.append(
        "\n| set | cosine of embedding and teacher's query vector | best weight at inference |\n|---|---|---|\n"
    )
    for one in sets:
        best = max(SHARES[:-1], key=lambda w: full[f"mean, target 0.5, inference {w:g}"][one].mean())
        lines_.append(f"| {one} | {full['agreement'][one].mean():.3f} | {best:g} |\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(line if line.endswith("\n") else line + "\n" for line in lines_))


if __name__ == "__main__":
    main()
