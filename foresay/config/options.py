"""What the option classes share: their help, their choices, and how a wrong value is refused.

In: a frozen dataclass whose fields are `Annotated[type, "help text"]`. Out: what the command line is made from
(`cli.options`), and errors that name the field.
"""

import math
from dataclasses import fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16", "8bit", "4bit")
DType = Literal["auto", "float32", "bfloat16", "float16", "8bit", "4bit"]
COLDEST = 1e-6
"""The smallest temperature that is not 0."""
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]


class Options:
    """What the option classes share: checking, and how the command line shows them."""

    SECTIONS: ClassVar[dict[str, str]] = {}

    @classmethod
    def help(cls) -> dict[str, str]:
        """The help text of each field."""
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: get_args(hints[field.name])[1] for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def sections(cls) -> dict[str, str]:
        """The title under which the help lists each field: `SECTIONS` names the first field of each section."""
        titles, title = {}, "Options"
        for field in fields(cls):  # type: ignore[arg-type]
            title = cls.SECTIONS.get(field.name, title)
            titles[field.name] = title
        return titles

    @classmethod
    def types(cls) -> dict[str, Any]:
        """The plain type of each field, without its help text."""
        return get_type_hints(cls)

    def as_options(self) -> list[str]:
        """The command line's words for the options that are not at their defaults."""
        changed = [field for field in fields(self) if getattr(self, field.name) != field.default]  # type: ignore[arg-type]
        return [
            word for field in changed for word in ("--" + field.name.replace("_", "-"), str(getattr(self, field.name)))
        ]

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """The words that a field takes, for each that takes only some."""
        return {name: get_args(hint) for name, hint in cls.types().items() if get_origin(hint) is Literal}

    def at_least(self, least: int, *names: str) -> None:
        """Refuses a field of these that is below."""
        for name in names:
            value = getattr(self, name)
            require(value >= least, f"{name} is {value}; expected {least} or more")

    def above_zero(self, *names: str) -> None:
        """Refuses a field of these that is 0, below, or no finite number."""
        for name in names:
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} is {value}; expected a finite number above 0")

    def __post_init__(self) -> None:
        """Refuses values outside a field's choices: a typo must not train for an hour first."""
        for name, known in self.choices().items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")


def settled(temperature: float) -> float:
    """A temperature as it is used: 0 for one so small that scores divided by it are beyond float32."""
    return 0.0 if 0 < temperature < COLDEST else temperature


def require(condition: bool, message: str) -> None:
    """Refuses options that break a condition."""
    if not condition:
        raise InputError(message)
