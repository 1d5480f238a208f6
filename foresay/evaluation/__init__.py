"""Does it find the answer, by how much more than something else, and how sure is that?

In: embedders and tasks. Out: `Score`s, one per metric, task and embedder, with what each item contributed. mteb is
imported only when one of its tasks runs, so `foresay quickstart` works without the extra `evaluate`.

    suites.py ─▶ folder_tasks.py           what is measured: names and folders become mteb tasks
        task_files.py, safety_task.py
    mteb_model.py, baselines.py            who is measured: any encoder becomes an mteb model, with a cache
        baseline_embedders.py
    run.py ─▶ measure.py, items.py         the measuring, scored by mteb's own code ─▶ scores.py
    intervals.py ─▶ report.py, cells.py    how sure, and how it is shown; pictures in plots.py
    manifest.py, fingerprints.py           what a result depends on
    ranking.py                             a few small scores that need no mteb
    evaluate.py                            the verb: all of it
"""

from .ranking import PerQuery, Safety, Task, interval, ndcg, safety
from .scores import Score, load_scores, save_scores

__all__ = ["Safety", "Score", "PerQuery", "Task", "interval", "load_scores", "ndcg", "safety", "save_scores"]
