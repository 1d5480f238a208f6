"""Does it find the answer, by how much more than something else, and how sure is that?

In: embedders and tasks. Out: `Score`s, one a metric, task and embedder, with what each single item contributed.
What a reader would get wrong: nothing here imports mteb until a task of it is run, so that `foresay quickstart`
works without the extra `evaluate`.

    suites.py ─▶ tasks.py      what is measured: names and folders become mteb tasks
    embedder.py                who is measured: any encoder becomes an mteb model, its vectors kept on disk
    run.py ─▶ scores.py        the measuring, scored by mteb's own code
    manifest.py                what a result depends on
    quick.py                   a few small functions that need no mteb
"""

from .ranking import PerQuery, Safety, Task, interval, ndcg, safety
from .scores import Score, load_scores, save_scores

__all__ = ["Safety", "Score", "PerQuery", "Task", "interval", "load_scores", "ndcg", "safety", "save_scores"]
