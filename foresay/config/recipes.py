"""Named sets of training options: the published runs, to the letter.

In: the name of a recipe and the family of the language model. Out: options for `TrainConfig(**...)`.
"""

from typing import Any

from ..errors import InputError

_PUBLISHED: dict[str, Any] = {
    "compression": 10,
    "template": "none",
    "readout": "mean",
    "reconstruct": "one",
    "documents": "checkpoint",
    "start": "random",
    "alignment": "mse",
    "select": "loss",
    "steps": 5000,
    "batch_size": 32,
    "learning_rate": {"qwen3": 3e-4, "other": 5e-4},
    "warmup_steps": 100,
    "decay_steps": 20_000,
    "max_query_tokens": 512,
    "max_response_tokens": 512,
}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "paper-v1": {"thought": 10, **_PUBLISHED},
    "paper-v2": {"thought": 0, **_PUBLISHED},
}
"""Options of `TrainConfig` by the name of a recipe; a dictionary holds a value for each family of models.

The published runs stop a schedule of 20,000 steps after 5,000, so the learning rate ends at three quarters of its
peak. The paper does not say so; the training script of its authors does.
"""


def recipe(name: str, model_type: str) -> dict[str, Any]:
    """The options of a recipe for a family of language models, for `TrainConfig(**…)`.

    Args:
        name: one of `RECIPES`.
        model_type: as the model's own configuration calls its family, such as `qwen3`.

    Raises:
        InputError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return {
        option: value.get(model_type, value["other"]) if isinstance(value, dict) else value
        for option, value in RECIPES[name].items()
    }
