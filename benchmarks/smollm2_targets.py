"""Which targets the packaged checkpoint's trained tokens should be fitted to: how much of an answer, how much question.

    python benchmarks/smollm2_targets.py --data ../shared/data --responses responses.jsonl --cache cache/ \\
        --output benchmarks/results/smollm2_targets.md

In: labelled sets, the answers that the checkpoint was fitted on, and the cache that `smollm2.py` fills. Out: a table of
nDCG@10 and the mean gain over the whitened teacher, for answers cut to 24, 48 and 96 tokens, shares of the question in
the target, and penalties of the ridge regression.
Be careful: here the teacher's vectors have length 1 before they are mixed, and the last 500 rows choose the penalty;
`fit` mixes them at their own lengths. The rows therefore compare with one another, not with smollm2_packaged.md.
"""

from pathlib import Path

import click
import numpy as np
import torch

from foresay import Encoder
from foresay.backbone_sources import SMOLLM2
from foresay.data.responses import read_responses
from foresay.teachers.whitened import WhitenedTeacher
from kept import Kept
from smollm2_methods import HELD, PENALTIES, ridge
from smollm2_reading import LONGEST, Reader, cut, slug
from smollm2_sets import Array, LabelledSet, all_sets, unit

SETS = ("theoremqa", "wordnet_define", "medquad", "entailment_bank", "trecqa", "sts12", "sts13", "sts14")
RETRIEVAL = SETS[:4]
CUTS = (24, 48, LONGEST)


class Trained:
    """What a checkpoint, the packaged one unless another is named, and its teacher say of texts."""

    def __init__(self, cache: Path, checkpoint: str = SMOLLM2, device: str = "cpu") -> None:
        """Loads both; what they said before is in the cache."""
        encoder = Encoder.from_pretrained(checkpoint, device=device)
        teacher = encoder.load_document_teacher()
        assert isinstance(teacher, WhitenedTeacher)
        self.model, self.whitening, self.weight = encoder.model, teacher.whitening, encoder.query_weight
        self.reader = Reader(self.model.backbone, cache, "smollm2", teacher=teacher.name)
        label = "packaged" if checkpoint == SMOLLM2 else slug(checkpoint)
        self.kept = Kept(cache, f"smollm2-{label}-states")

    def teacher(self, texts: list[str]) -> Array:
        """Whitened, of length 1."""
        return unit(self.whitening(self.reader.vectors(texts))) if texts else np.empty((0, self.model.dim), np.float32)

    def states(self, texts: list[str], say: str) -> Array:
        """The mean of the special tokens' states, (texts, hidden)."""

        def embed(block: list[str]) -> Array:
            rows, _ = self.model.rows(block, 512)
            out = torch.empty(len(rows), self.model.backbone.hidden_size)
            self.model.run(rows, lambda hidden: hidden.float().mean(1), [out], 6144)
            found: Array = out.numpy()
            return found

        self.kept.fill(texts, lambda block: embed(list(block)), say)
        return self.kept.read(texts)


def score(one: LabelledSet, own: Array, asked: Array, documents: Array, weight: float) -> float:
    """Of embeddings with so much of the question's own vector."""
    return float(one.statistic(one.items(unit((1 - weight) * unit(own) + weight * asked), documents)))


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--responses", required=True, type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(data: Path, responses: Path, cache: Path, output: Path) -> None:
    """Writes the table."""
    torch.set_num_threads(1)
    trained, rows = Trained(cache), read_responses(responses)
    queries, answers = [row.query for row in rows], [row.response for row in rows]
    states, asked = trained.states(queries, "training questions"), trained.teacher(queries)
    answered = {most: trained.teacher(cut(trained.model.backbone, answers, most)) for most in CUTS}
    sets = [one for one in all_sets(data) if one.name in SETS]
    read = {
        one.name: (trained.states(one.queries, one.name), trained.teacher(one.queries), trained.teacher(one.documents))
        for one in sets
    }
    floor = {one.name: score(one, read[one.name][1], *read[one.name][1:], 0) for one in sets}

    def row(name: str, most: int, share: float, penalties: tuple[float, ...], weight: float) -> str:
        to = ridge(states, (1 - share) * answered[most] + share * asked, penalties)
        found = {one.name: score(one, to(read[one.name][0]), *read[one.name][1:], weight) for one in sets}
        gains = [float(np.mean([found[n] / floor[n] - 1 for n in names])) for names in (RETRIEVAL, SETS)]
        return f"| {name} | " + " | ".join([*(f"{found[n]:.3f}" for n in SETS), *(f"{g:+.0%}" for g in gains)]) + " |"

    lines = [HEAD.format(len(rows), HELD), "| | " + " | ".join([*SETS, "retrieval", "all"]) + " |"]
    lines += ["|" + "---|" * (len(SETS) + 3), "| teacher | " + " | ".join(f"{floor[n]:.3f}" for n in SETS) + " | | |"]
    for weight in (0.0, trained.weight):
        passes = "one pass" if not weight else f"{weight:g} of the question's own vector"
        lines += [
            row(f"answers of {most} tokens, {share:g} question, {passes}", most, share, PENALTIES, weight)
            for most in CUTS
            for share in (0.35, 0.5)
        ]
        lines += [
            row(f"{LONGEST} tokens, 0.5 question, {passes}, penalty {penalty:g}", LONGEST, 0.5, (penalty,), weight)
            for penalty in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
        ]
    output.write_text("\n".join(lines) + "\n")


HEAD = """# Targets for the packaged checkpoint's trained tokens

{} answers, cut to their first tokens; half or a third of the question in the target; the last {} rows choose the
penalty where none is named. No intervals: neighbouring rows differ by less than the intervals of smollm2_packaged.md.
"""

if __name__ == "__main__":
    main()
