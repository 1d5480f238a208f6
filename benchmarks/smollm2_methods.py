"""The methods of the tables: each turns a set into vectors of its queries and documents.

In: what was read once (raw teacher vectors and states), a seed. Out: `Method`s. Nothing here has a gradient: whitening
is principal components, the map is ridge regression, and the last `HELD` rows choose its penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foresay.teachers.whitening import Whitening, choose_whitening, finds_partner
from smollm2_sets import Array, LabelledSet, unit

HELD = 500
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
Embed = Callable[[list[str]], Array]


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        name: of the row.
        query, document: texts to vectors of length 1.
    """

    name: str
    query: Embed
    document: Embed

    def on(self, one: LabelledSet) -> tuple[Array, Array]:
        """Vectors of a set's queries and documents."""
        queries = self.query(one.queries)
        return queries, self.document(one.documents) if one.documents else queries[:0]


def ridge(states: Array, targets: Array, penalties: Sequence[float] = PENALTIES) -> Callable[[Array], Array]:
    """A linear map; the penalty with the best mean cosine on the last rows."""
    center, spread = states[:-HELD].mean(axis=0), states[:-HELD].std(axis=0) + 1e-6
    x, mean = (states - center) / spread, targets[:-HELD].mean(axis=0)
    gram, cross = x[:-HELD].T @ x[:-HELD] / len(x), x[:-HELD].T @ (targets[:-HELD] - mean) / len(x)
    weights = [np.linalg.solve(gram + penalty * np.eye(len(gram), dtype=np.float32), cross) for penalty in penalties]
    fits = [(unit(x[-HELD:] @ weight + mean) * unit(targets[-HELD:])).sum(axis=1).mean() for weight in weights]
    best = weights[int(np.argmax(fits))]
    return lambda found: ((found - center) / spread @ best + mean).astype(np.float32)


@dataclass(frozen=True)
class Taught:
    """The training rows of one seed.

    Attributes:
        states: (rows, width) of the queries' special tokens.
        asked, answered: (rows, hidden), the teacher's raw vectors of queries and responses.
    """

    states: Array
    asked: Array
    answered: Array

    def draw(self, seed: int, count: int) -> "Taught":
        """So many of the rows, in the order of a seed."""
        order = np.random.default_rng(seed).permutation(len(self.asked))[:count]
        return Taught(self.states[order], self.asked[order], self.answered[order])


class Fitted:
    """Whitening and maps of one seed's rows."""

    def __init__(self, rows: Taught, vectors: Embed, states: Embed, seed: int) -> None:
        """Chooses the whitening on held-out pairs; the maps come on demand.

        Args:
            rows: to learn from.
            vectors: texts to the teacher's raw vectors.
            states: texts to states.
            seed: of what the whitening holds out.
        """
        self.rows, self.raw, self.states = rows, vectors, states
        self.whitening: Whitening
        self.whitening, self.choice = choose_whitening(rows.asked[:-HELD], rows.answered[:-HELD], seed=seed)
        self.asked, self.answered = unit(self.whitening(rows.asked)), unit(self.whitening(rows.answered))
        self._maps: dict[float, Callable[[Array], Array]] = {}

    def teacher(self, texts: list[str]) -> Array:
        """Whitened, of length 1."""
        return unit(self.whitening(self.raw(texts)))

    def plain(self, texts: list[str]) -> Array:
        """As the model reads, of length 1."""
        return unit(self.raw(texts))

    def map(self, share: float) -> Callable[[Array], Array]:
        """From states to targets in which the query has a share."""
        if share not in self._maps:
            self._maps[share] = ridge(self.rows.states, (1 - share) * self.answered + share * self.asked)
        return self._maps[share]

    def ours(self, share: float, weight: float) -> Method:
        """The embedding; `share` of the query in the target, `weight` of its own vector at inference."""

        def embed(texts: list[str]) -> Array:
            own = unit(self.map(share)(self.states(texts)))
            return unit((1 - weight) * own + weight * self.teacher(texts)) if weight else own

        return Method(f"target {share:g}, inference {weight:g}", embed, self.teacher)

    def published(self) -> Method:
        """The published target: the plain teacher's vector of the response alone."""
        fitted = ridge(self.rows.states, self.rows.answered)
        return Method(
            "published target: response alone, plain teacher",
            lambda texts: unit(fitted(self.states(texts))),
            self.plain,
        )

    def teachers(self) -> list[Method]:
        """The floors."""
        return [
            Method("teacher, plain", self.plain, self.plain),
            Method("teacher, whitened", self.teacher, self.teacher),
        ]

    def criterion(self, share: float, weight: float) -> float:
        """Without labels: how well held-out queries find their own responses, mean reciprocal rank."""
        own = unit(self.map(share)(self.rows.states[-HELD:]))
        mixed = (1 - weight) * own + weight * self.asked[-HELD:]
        return float(finds_partner(mixed, self.answered[-HELD:]))
