"""Intervals against quantities computed by hand, against scipy, and against what an interval promises."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import v_measure_score

from foresay.errors import DataError, InputError
from foresay.evaluation import intervals as compare
from foresay.evaluation.intervals import Column, Comparison
from foresay.evaluation.scores import Score

COLUMN = Column("t", "m", "retrieval", True)


@pytest.fixture
def random() -> np.random.Generator:
    """The same numbers for each test."""
    return np.random.default_rng(7)


def means(embedder: str, items: Any, task: str = "t", seconds: float = float("nan")) -> Score:  # noqa: ANN401
    """A score that is the mean of its items."""
    array = np.asarray(items, float)
    return Score(task, "retrieval", "m", embedder, float(array.mean()), "mean", {"score": array}, seconds, True)


def ranks(embedder: str, cosine: NDArray[Any], gold: NDArray[Any]) -> Score:
    """A score that is a rank correlation."""
    value = float(stats.spearmanr(cosine, gold).statistic)
    return Score("t", "sts", "m", embedder, value, "spearman", {"cosine": cosine, "gold": gold}, 0.1, True)


def clusters(embedder: str, label: NDArray[Any], cluster: NDArray[Any]) -> Score:
    """A score that is a V-measure."""
    value = float(np.mean([v_measure_score(*pair) for pair in zip(*map(np.atleast_2d, (label, cluster)), strict=True)]))
    return Score("t", "clustering", "m", embedder, value, "v_measure", {"label": label, "cluster": cluster}, 0.1, True)


def test_a_difference_is_paired(random: np.random.Generator) -> None:
    """One is a tenth better on each item: nothing is less certain, however wide the two intervals are."""
    items = random.random(50)
    comparison = Comparison([means("a", items + 0.1), means("b", items)])
    alone, difference = comparison.score("a", [COLUMN]), comparison.difference("a", "b", [COLUMN])
    assert alone.high - alone.low > 0.1
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference.certain
    assert comparison.items[COLUMN] == 50


def test_no_difference_is_not_certain() -> None:
    """As often better as worse."""
    comparison = Comparison([means("a", [0.0, 1.0] * 20), means("b", [1.0, 0.0] * 20)])
    difference = comparison.difference("a", "b", [COLUMN])
    assert difference.value == 0 and difference.low == pytest.approx(-difference.high, abs=0.1)
    assert not difference.certain


def test_change_is_of_the_means() -> None:
    """(0.3 + 0.6) / (0.1 + 0.5) is 50 % more; the mean of the two changes would be 110 %."""
    other = Column("u", "m", "retrieval", True)
    scores = [means("a", [0.3] * 4), means("b", [0.1] * 4), means("a", [0.6] * 4, "u"), means("b", [0.5] * 4, "u")]
    change = Comparison(scores).change("a", "b", [COLUMN, other])
    assert (change.value, change.low, change.high) == pytest.approx((50, 50, 50))
    assert Comparison(scores).score("a", [COLUMN, other]).value == pytest.approx(0.45)
    fewer = Comparison([means("a", [0.57] * 4), means("b", [1.0] * 4)])
    assert fewer.change("a", "b", [COLUMN]).value == pytest.approx(-43)


def test_change_from_nothing() -> None:
    """Has no value; a baseline that is 0 in a draw only is left out of it."""
    assert np.isnan(Comparison([means("a", [1.0]), means("b", [0.0])]).change("a", "b", [COLUMN]).value)
    rare = Comparison([means("a", [1.0, 1.0]), means("b", [0.0, 1.0])]).change("a", "b", [COLUMN])
    assert (rare.value, rare.low, rare.high) == pytest.approx((100, 0, 100))


@pytest.mark.parametrize("statistic", ["mean", "spearman"])
def test_as_scipy_does(statistic: str, random: np.random.Generator) -> None:
    """The interval of a score and of a paired difference, up to the chance of the draws."""
    first, second, gold = random.random(120), random.random(120), random.random(120)
    first, second = first + gold, second + 0.5 * gold

    def score(values: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401
        return values.mean() if statistic == "mean" else stats.spearmanr(values, given).statistic

    def difference(one: NDArray[Any], two: NDArray[Any], given: NDArray[Any]) -> Any:  # noqa: ANN401
        return score(one, given) - score(two, given)

    options = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 2000, "rng": random}
    both = [("a", first), ("b", second)]
    comparison = Comparison([means(n, v) if statistic == "mean" else ranks(n, v, gold) for n, v in both])
    for found, wanted in (
        (comparison.score("a", comparison.columns), stats.bootstrap((first, gold), score, **options)),
        (
            comparison.difference("a", "b", comparison.columns),
            stats.bootstrap((first, second, gold), difference, **options),
        ),
    ):
        interval = wanted.confidence_interval
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.015)


def test_resampled_spearman(random: np.random.Generator) -> None:
    """Each draw equals scipy's on the items that it holds, ties and all; without variation it is 0."""
    cosine = np.round(random.normal(size=60), 1)
    gold = np.round(cosine + random.normal(size=60))
    counts = compare._counts(random, 60, 20)
    wanted = [stats.spearmanr(cosine.repeat(n), gold.repeat(n)).statistic for n in counts.astype(int)]
    np.testing.assert_allclose(compare._spearman({"cosine": cosine, "gold": gold}, counts), wanted)
    assert not compare._spearman({"cosine": cosine, "gold": np.ones(60)}, counts).any()


def test_jackknife_of_v_measure(random: np.random.Generator) -> None:
    """The closed form equals scikit-learn's V-measure, of all the items and without each; a draw is their mean."""
    label, cluster = np.array(list("aabbbcccc")), np.array([0, 0, 0, 1, 1, 2, 2, 2, 1])
    whole = v_measure_score(label, cluster)
    without = np.array([v_measure_score(np.delete(label, i), np.delete(cluster, i)) for i in range(9)])
    parts = 8 * (whole - without)
    counts = compare._counts(random, 9, 5)
    np.testing.assert_allclose(
        compare._v_measure({"label": label, "cluster": cluster}, counts), whole + counts @ (parts - parts.mean()) / 9
    )
    one = np.zeros(3, int)
    np.testing.assert_allclose(compare._v_measure({"label": one, "cluster": one}, np.ones((2, 3))), 1)


@pytest.mark.parametrize("statistic", ["mean", "spearman", "v_measure"])
def test_coverage(statistic: str) -> None:
    """Of many small worlds, about 95 in 100 intervals hold the true difference; here it is none."""
    generator, hits, worlds = np.random.default_rng(3), 0, 200
    for _ in range(worlds):
        if statistic == "v_measure":
            label = generator.integers(8, size=150)
            noisy = (np.where(generator.random(150) < 0.5, label, generator.integers(8, size=150)) for _ in "ab")
            scores = [clusters(name, label, cluster) for name, cluster in zip("ab", noisy, strict=True)]
        else:
            gold = generator.normal(size=40)
            noisy = (gold + generator.normal(size=40) for _ in "ab")
            scores = [
                means(n, values) if statistic == "mean" else ranks(n, values, gold)
                for n, values in zip("ab", noisy, strict=True)
            ]
        comparison = Comparison(scores, draws=300)
        difference = comparison.difference("a", "b", comparison.columns)
        hits += difference.low <= 0 <= difference.high
    assert 0.9 <= hits / worlds <= 0.99


def test_checkpoints_of_one_method() -> None:
    """Their mean, their spread, and the interval of the mean."""
    scores = [means("s0", [0.1] * 5), means("s1", [0.2] * 5), means("s2", [0.6] * 5), means("b", [0.1] * 5)]
    comparison = Comparison(scores, {"foresay": ["s0", "s1", "s2"], "b": ["b"]})
    score, difference = (comparison.score("foresay", [COLUMN]), comparison.difference("foresay", "b", [COLUMN]))
    assert score.value == pytest.approx(0.3) and score.spread == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert difference.value == pytest.approx(0.2) and difference.spread == pytest.approx(score.spread)
    assert comparison.change("foresay", "b", [COLUMN]).value == pytest.approx(200)
    assert comparison.score("b", [COLUMN]).spread is None


def test_repeated_measurements(random: np.random.Generator) -> None:
    """The value is the mean over repeats. Repeats on the same items are no further items: the interval stays."""
    once = random.random(80)
    single, repeated = (Comparison([means("a", items)]) for items in (once, np.stack([once] * 10)))
    assert repeated.score("a", [COLUMN]).high == pytest.approx(single.score("a", [COLUMN]).high)
    label, cluster = random.integers(4, size=(3, 50)), random.integers(4, size=(3, 50))
    comparison = Comparison([clusters("a", label, cluster)])
    estimate = comparison.score("a", comparison.columns)
    assert estimate.low < estimate.value < estimate.high


def test_repeats_on_samples(random: np.random.Generator) -> None:
    """Where samples overlap, `item` says who is who: the same sample twice is as uncertain as once."""
    label, cluster = random.integers(4, size=50), random.integers(4, size=50)
    order = random.permutation(50)
    twice = clusters("a", np.stack([label, label[order]]), np.stack([cluster, cluster[order]]))
    twice.items["item"] = np.stack([np.arange(50), order])
    found, wanted = (Comparison([score]) for score in (twice, clusters("a", label, cluster)))
    assert found.score("a", found.columns).high == pytest.approx(wanted.score("a", wanted.columns).high)
    assert found.items == wanted.items


def test_draws_do_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    """Nor on the other scores; another seed gives others."""
    items = random.random((2, 30))
    whole = Comparison([means("a", items[0]), means("b", items[1])]).score("a", [COLUMN])
    monkeypatch.setattr(compare, "_BLOCK", 100)
    assert Comparison([means("a", items[0])]).score("a", [COLUMN]) == whole
    assert Comparison([means("a", items[0])], seed=1).score("a", [COLUMN]) != whole


def test_seconds() -> None:
    """Mean over the tasks where it is known."""
    scores = [means("a", [1.0], "t", 0.5), means("a", [1.0], "u", 1.5), means("a", [1.0], "v"), means("b", [1.0])]
    comparison = Comparison(scores)
    assert comparison.seconds_per_query("a") == 1
    assert np.isnan(comparison.seconds_per_query("b"))
    assert comparison.has("a", comparison.columns) and not comparison.has("b", comparison.columns)


def test_a_figure_without_items() -> None:
    """Has no interval; in a mean it counts as certain."""
    other = Column("u", "ap", "pair_classification", True)
    bare = [Score("u", "pair_classification", "ap", name, 0.5, "none", {}, 0.1, True) for name in "ab"]
    comparison = Comparison([means("a", [0.0, 1.0] * 20), means("b", [1.0, 0.0] * 20), *bare])
    alone, both = comparison.score("a", [other]), comparison.score("a", [COLUMN, other])
    assert alone.value == 0.5 and np.isnan(alone.low) and comparison.items[other] == 0
    assert not comparison.difference("a", "b", [other]).certain
    single = comparison.score("a", [COLUMN])
    assert both.high - both.low == pytest.approx((single.high - single.low) / 2)


def test_what_cannot_be_compared() -> None:
    """Other items, other labels, twice the same, a method without scores."""
    gold = np.arange(3.0)
    with pytest.raises(DataError, match="other items of t"):
        Comparison([means("a", [1.0, 0.0]), means("b", [1.0])])
    with pytest.raises(DataError, match="other items of t"):
        Comparison([ranks("a", gold, gold), ranks("b", gold, gold[::-1])])
    with pytest.raises(DataError, match="two scores of m on t"):
        Comparison([means("a", [1.0]), means("a", [1.0])])
    with pytest.raises(DataError, match="make no spearman"):
        Comparison([Score("t", "sts", "m", "a", 0.0, "spearman", {"score": gold}, 0.1, True)])
    with pytest.raises(InputError, match="no scores of c"):
        Comparison([means("a", [1.0])], {"x": ["c"]})
