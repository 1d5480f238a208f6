"""What the scores of a folder depend on, so that somebody else can make them again, and a rerun knows what changed.

In: embedders and tasks. Out: `manifest.json`: fingerprint, backbone, prompts and dtype of each embedder, the data of
each task, the machine, the versions and the seed. Other embedders and tasks may join a folder at any time. The *same
name* for something else is refused; another machine, version or seed is only a warning.
"""

import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import torch
from mteb.abstasks import AbsTask

from ..checkpoints.environment import environment
from ..encoder import Encoder
from ..errors import DataError
from ..files import differences
from .mteb_model import MtebModel

logger = logging.getLogger(__name__)
Manifest = dict[str, Any]


def describe(models: Mapping[str, Any], tasks: Iterable[AbsTask], seed: int, limit: int | None) -> Manifest:
    """The manifest of a run.

    Args:
        models: by row name; `MtebModel`s, and whatever mteb takes besides.
        tasks: what is measured.
        seed: of the bootstrap.
        limit: most queries of a task.
    """
    return {
        "embedders": {name: _embedder(model) for name, model in models.items()},
        "tasks": {task.metadata.name: _task(task, limit) for task in tasks},
        "seed": seed,
        "environment": {
            **environment(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            **{name: version(name) for name in ("mteb", "scikit-learn")},
        },
    }


def merge(found: Manifest, fresh: Manifest) -> Manifest:
    """The manifest of a folder that holds one already.

    Raises:
        DataError: if an embedder or a task of the same name is another one now; says in what.
    """
    for part in ("embedders", "tasks"):
        for name in found[part].keys() & fresh[part].keys():
            if changed := _changes(found[part][name], fresh[part][name]):
                raise DataError(
                    f"the {part[:-1]} {name} is not the one that was measured here: {changed}; use another -o, "
                    "or delete the folder"
                )
    for part in ("seed", "environment"):
        if changed := _changes({part: found[part]}, {part: fresh[part]}):
            logger.warning("not as when this folder was begun: %s", changed)
    joined = {part: found[part] | fresh[part] for part in ("embedders", "tasks")}
    return {**found, **fresh, **joined}


def _changes(found: Mapping[str, Any], fresh: Mapping[str, Any]) -> str:
    return differences(found, _whole(found, fresh))


def _whole(found: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """With None for what is gone: `differences` looks only at what is expected."""
    whole = {**dict.fromkeys(found), **fresh}
    both = {name for name in whole if isinstance(found.get(name), Mapping) and isinstance(fresh.get(name), Mapping)}
    return whole | {name: _whole(found[name], fresh[name]) for name in both}


def _embedder(model: Any) -> Manifest:  # noqa: ANN401
    if not isinstance(model, MtebModel):
        meta = model.mteb_model_meta
        return {"name": meta.name, "fingerprint": meta.revision}
    about: Manifest = {"fingerprint": model.fingerprint}
    encoder = model.embedder
    if isinstance(encoder, Encoder):
        backbone = encoder.model.backbone
        about |= {
            "backbone": {
                "name": backbone.name,
                "revision": backbone.revision,
                "dtype": backbone.dtype_name,
                "device": str(backbone.device.type),
            },
            "max_tokens": encoder.max_tokens,
            "query_weight": encoder.query_weight,
            "task_prompts": model.task_prompts,
            "prompts": model.prompts,
        }
        teacher = encoder.document_teacher
        about["documents"] = "checkpoint" if teacher is None else f"teacher {teacher.name} {teacher.revision}"
    return about


def _task(task: AbsTask, limit: int | None) -> Manifest:
    dataset = task.metadata.dataset
    return {
        "data": dataset["path"],
        "revision": dataset["revision"],
        "prompt": task.metadata.prompt,
        "splits": list(task.eval_splits),
        "subsets": list(task.hf_subsets),
        "seed": task.seed,
        "limit": limit,
    }
