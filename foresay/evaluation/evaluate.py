"""The verb `evaluate`: checkpoints and what they are compared with, on suites, to scores and a report.

In: names. Out: a `Report`, and in the folder what `run.py` and `report.py` write. Several checkpoints are seeds of one
method: each has rows of its own in the scores, and the report shows their mean and spread as `foresay`.
"""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..config import ClusterConfig, EvaluateConfig, RespondConfig
from ..data.queries import Progress
from ..encoder import Encoder
from ..files import load_object
from ..outputs import check_folder
from ..retrieval.opening import open_index
from ..teachers.base import Teacher
from .baselines import BASELINES, Surroundings, load_baseline
from .checkpoint_teacher import teacher_of
from .encoders import load_encoders, with_documents
from .index_search import searches_of
from .intervals import Comparison
from .mteb_model import MtebModel
from .remote import EvaluateWork, RemoteEncoder
from .report import Report
from .run import run_tasks, silent
from .suites import suite

OURS = "foresay"
_NAMES = (
    *("manifest.json", "scores.json", "items.npz", "results.json", "results.md"),
    *("scores.png", "differences.png", "tasks.png", "safety.png", "latency.png"),
)
"""The files of an evaluation; the manifest is written first."""


def evaluate(
    checkpoints: str | Path | Sequence[str | Path],
    suites: str | Path | Sequence[str | Path],
    output: Path | str = "evaluation",
    config: EvaluateConfig | None = None,
    *,
    against: str | Sequence[str] = (),
    cluster: ClusterConfig | None = None,
    progress: Progress = silent,
) -> Report:
    """Measures checkpoints and baselines on suites.

    Args:
        checkpoints: folders or hub ids, seeds of one method; or one.
        suites: names as `suite` takes them; or one.
        output: folder of the evaluation; one that is there is continued.
        config: what is measured, and where.
        against: baselines as `load_baseline` takes them; or one.
        cluster: where checkpoints embed, if not here.
        progress: told of tasks done.

    Returns:
        the report, which is also written to `output`.

    Raises:
        ForesayError: what `suite`, `Encoder.from_pretrained`, `load_baseline` and `run_tasks` raise.
    """
    config, output = config or EvaluateConfig(), Path(output)
    check_place(output)
    checkpoints, suites, against = _several(checkpoints), _several(suites), _several(against)
    tasks = list({task.metadata.name: task for name in suites for task in suite(name)}.values())
    encoders = load_encoders(checkpoints, config, config.device)
    teacher = _teacher(checkpoints[0], encoders[0].model.backbone, config, against)
    encoders = with_documents(encoders, config, teacher)
    names = [OURS] if len(encoders) == 1 else [f"{OURS} {number}" for number in range(1, len(encoders) + 1)]
    embedders: dict[str, Any] = dict(zip(names, encoders, strict=True))
    methods = {OURS: names}
    around = Surroundings(
        encoders[0].model.backbone,
        teacher,
        output,
        Path(config.responses).expanduser() if config.responses else None,
        RespondConfig(max_new_tokens=config.max_new_tokens),
    )
    for name in dict.fromkeys(against):
        made: Any = load_baseline(name, around, config.device)
        label = name if name in BASELINES else made.name
        embedders[label], methods[label] = made, [label]
    if config.index:
        opened = open_index(config.index, encoders[0])
        for search in searches_of(opened):
            embedders[search.name], methods[search.name] = search, [search.name]
    with ExitStack() as stack:
        if cluster and cluster.cluster:
            embedders |= zip(names, _on_cluster(checkpoints, encoders, config, cluster, stack), strict=True)
        scores = run_tasks(
            embedders,
            tasks,
            output,
            seed=config.seed,
            limit=config.limit or None,
            task_prompts=config.prompts == "task",
            progress=progress,
        )
    ours = MtebModel(OURS, encoders[0], task_prompts=config.prompts == "task")
    prompts = {task.metadata.name: ours.prompt_words(task) for task in tasks}
    report = Report.of(Comparison(scores, methods, seed=config.seed), OURS, prompts)
    report.write(output, _command(checkpoints, suites, output, config, against))
    return report


def check_place(output: Path) -> None:
    """Fails if something that is no evaluation is in the way of one; InputError, DataError."""
    manifest = output / "manifest.json"
    about = load_object(manifest.read_bytes()) if manifest.is_file() else None
    mine = about is not None and {"embedders", "tasks"} <= about.keys()
    check_folder(output, _NAMES, mine=mine, command="foresay evaluate")


def _command(
    checkpoints: Sequence[str], suites: Sequence[str], output: Path, config: EvaluateConfig, against: Sequence[str]
) -> str:
    """The command line that does the same."""
    also = [word for place in checkpoints[1:] for word in ("--also", str(place))]
    others = [word for name in against for word in ("--against", name)]
    words = ["foresay", "evaluate", str(checkpoints[0]), *map(str, suites), *also, *others, *config.as_options()]
    return shlex.join([*words, "-o", str(output)])


def _several(names: str | Path | Sequence[str | Path]) -> list[str]:
    """A list of names, also of one alone."""
    return [str(name) for name in ([names] if isinstance(names, str | Path) else names)]


def _teacher(place: str, backbone: Backbone, config: EvaluateConfig, against: Sequence[str]) -> Teacher | None:
    """The checkpoint's teacher, where something asks for it."""
    needed = any(name in BASELINES and BASELINES[name].needs_teacher for name in against)
    if config.documents != "teacher" and not needed:
        return None
    return teacher_of(place, backbone, config.device, config.teacher or None)


def _on_cluster(
    checkpoints: Sequence[str],
    encoders: Sequence[Encoder],
    config: EvaluateConfig,
    cluster: ClusterConfig,
    stack: ExitStack,
) -> list[RemoteEncoder]:
    """The checkpoints with the cluster's workers, which end with the stack."""
    from ..cluster.ray_pool import RayPool

    pool = stack.enter_context(RayPool(EvaluateWork(tuple(checkpoints), config), cluster, config.device))
    return [RemoteEncoder(encoder, pool, number) for number, encoder in enumerate(encoders)]
