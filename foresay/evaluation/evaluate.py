"""What `foresay evaluate` does: checkpoints and what they are compared with, on suites, to scores and a report.

In: names. Out: a `Report`, and in the folder what `run.py` and `report.py` write.
What a reader would get wrong: several checkpoints are seeds of one method. Each is a row of its own in the scores;
the report shows their mean and spread as `foresay`.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..checkpoints.checkpoint import find, read_config
from ..config import RespondConfig
from ..data.queries import Progress
from ..encoder import Encoder
from ..teachers.teach import Teacher
from .baselines import load_baseline
from .fingerprints import teacher_of
from .intervals import Comparison
from .report import Report
from .run import run_tasks
from .suites import suite

OURS = "foresay"
_NEED_TEACHER = {"teacher", "hyde", "response"}


def evaluate(
    checkpoints: Sequence[str],
    suites: Sequence[str],
    output: Path,
    *,
    against: Sequence[str] = (),
    documents: str | None = None,
    prompts: str = "task",
    teacher: str | None = None,
    responses: Path | None = None,
    max_new_tokens: int = 500,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress,
) -> Report:
    """Measures checkpoints and baselines on suites.

    Args:
        checkpoints: folders or hub ids, seeds of one method.
        suites: names as `suite` takes them.
        output: folder of the evaluation; one that is there is continued.
        against: baselines as `load_baseline` takes them.
        documents: who embeds them, `teacher` or `checkpoint`; None for who does in the checkpoint's own use.
        prompts: `task` for those of a task, where it has some; `checkpoint` for the checkpoint's own alone.
        teacher: where the teacher is, if it is not where the checkpoint says.
        responses: file of responses, for the baseline of that name.
        max_new_tokens: longest response that `hyde` writes.
        seed: of the bootstrap.
        limit: most queries of a task.
        device: where to run.
        dtype: number type of the backbone.
        progress: told of tasks done.

    Raises:
        ForesayError: what `suite`, `Encoder.from_pretrained`, `load_baseline` and `run_tasks` raise.
    """
    tasks = list({task.metadata.name: task for name in suites for task in suite(name)}.values())
    encoders = _encoders(checkpoints, device, dtype)
    backbone = encoders[0].model.backbone
    loaded: Teacher | None = None
    if documents == "teacher" or _NEED_TEACHER & set(against):
        loaded = teacher_of(checkpoints[0], backbone, device, teacher)
    if documents is not None:
        encoders = [encoder.with_document_teacher(loaded if documents == "teacher" else None) for encoder in encoders]
    names = [OURS] if len(encoders) == 1 else [f"{OURS} {number}" for number in range(1, len(encoders) + 1)]
    embedders: dict[str, Any] = dict(zip(names, encoders, strict=True))
    methods = {OURS: names}
    for way in dict.fromkeys(against):
        made = load_baseline(
            way,
            teacher=loaded,
            backbone=backbone,
            output=output,
            responses=responses,
            config=RespondConfig(max_new_tokens=max_new_tokens),
            device=device,
        )
        embedders[made.name], methods[made.name] = made, [made.name]
    scores = run_tasks(
        embedders, tasks, output, seed=seed, limit=limit, task_prompts=prompts == "task", progress=progress
    )
    report = Report.of(Comparison(scores, methods, seed=seed), OURS)
    report.write(output, shlex.join(["foresay", *sys.argv[1:]]))
    return report


def _encoders(checkpoints: Sequence[str], device: str, dtype: str) -> list[Encoder]:
    """Checkpoints of the same backbone share it."""
    backbones: dict[tuple[str, str | None], Backbone] = {}
    encoders = []
    for place in checkpoints:
        described = read_config(find(place))["backbone"]
        name = described["name"], described["revision"]
        encoder = Encoder.from_pretrained(place, backbone=backbones.get(name), device=device, dtype=dtype)
        backbones[name] = encoder.model.backbone
        encoders.append(encoder)
    return encoders
