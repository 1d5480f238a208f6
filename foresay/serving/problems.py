"""Which of the problems that pydantic has with a body its sender is told, and where in the body that is.

In: pydantic's errors, and the body. Out: one `Problem`.
Where a field takes several types, pydantic tries each and has a problem with each, whose place holds the type's name.
Careful: those names mean nothing to a client. The one type that was meant is told of; else all that would have been
right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

_TYPES = {
    "str": ("a string", "strings"),
    "constrained-str": ("a string", "strings"),
    "int": ("a token id", "token ids"),
    "Document": ("an object with text", "objects with text"),
    "TextPart": ("a part of type text", "parts of type text"),
}
"""Types that fields take, alone and in a list."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a body.

    Attributes:
        place: keys and indices that lead to it.
        kind: pydantic's name for such problems.
        message: what was expected.
    """

    place: tuple[str | int, ...]
    kind: str
    message: str


def located(errors: Sequence[Any], body: object) -> Problem:
    """The first problem, unknown options before all others."""
    return _told([Problem(error["loc"][1:], error["type"], error["msg"]) for error in errors], body)


def _told(problems: list[Problem], body: object) -> Problem:
    first = min(problems, key=lambda problem: problem.kind != "extra_forbidden")
    at = _foreign(first, body)
    if at is None:
        return first
    tried: dict[str | int, list[Problem]] = {}
    for one in problems:
        if one.place[:at] == first.place[:at] and len(one.place) > at:
            tried.setdefault(one.place[at], []).append(one)
    meant = [name for name, found in tried.items() if not any(_is_other(one, at) for one in found)]
    if len(tried) > 1 and len(meant) != 1:
        return Problem(first.place[:at], "union", f"expected {_either([_type(str(name))[0] for name in tried])}")
    inner = tried[meant[0]] if meant else tried[first.place[at]]
    return _told([replace(one, place=one.place[:at] + one.place[at + 1 :]) for one in inner], body)


def _foreign(problem: Problem, body: object) -> int | None:
    """Where in a problem's place a part is that is no key or index of the body, but a type's name."""
    own = problem.kind in ("missing", "extra_forbidden")  # then the last part is an option's name
    for at, part in enumerate(problem.place[:-1] if own else problem.place):
        known = part in body if isinstance(body, dict) else isinstance(body, list) and isinstance(part, int)
        if not known or part in _TYPES or str(part).startswith("list["):
            return at
        body = body[part]  # type: ignore[index]
    return None


def _is_other(problem: Problem, at: int) -> bool:
    """Whether a problem is that the value at a place is of another type altogether."""
    return len(problem.place) == at + 1 and problem.kind.endswith("_type")


def _type(name: str) -> tuple[str, str]:
    """A type in words, alone and in a list."""
    if name.startswith("list["):
        inner = _type(name[5:-1])[1]
        return f"a list of {inner}", f"lists of {inner}"
    return _TYPES.get(name, (name, name))


def _either(words: list[str]) -> str:
    """Words with an "or"."""
    return " or ".join([", ".join(words[:-1]), words[-1]])
