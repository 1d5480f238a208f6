"""What the commands are made of: options from the config classes, the options several share, errors as one line.

What a reader would get wrong: the group runs every command, so it is the one place where an error of our own tree
turns into a line on stderr and exit code 1. Anything else is a bug and keeps its traceback.
"""

import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from ..config import DTYPES, Options
from ..errors import ForesayError

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=Options)


class Group(click.Group):
    """Lists the commands in the order of the data, and prints our own errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are written."""
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Runs the command line."""
        try:
            return super().main(*args, **kwargs)
        except ForesayError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:  # the reader of our output has had enough, as `head` does
            sys.stderr.close()
            sys.exit(0)


def options(config: type[Options]) -> Callable[[F], F]:
    """Adds an option for each field of a config class."""

    def add(command: F) -> F:
        helps, types = config.help(), config.types()
        for field in reversed(fields(config)):  # type: ignore[arg-type]
            kind = _kind(types[field.name])
            default = None if field.default is MISSING else field.default
            name = "--" + field.name.replace("_", "-")
            command = click.option(name, type=kind, default=default, show_default=True, help=helps[field.name])(command)
        return command

    return add


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: ANN401
        """`64,128` as (64, 128)."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 64,128", param, ctx)


def _kind(hint: Any) -> Any:  # noqa: ANN401 - a type, or what click takes for one
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    return _Numbers() if hint == tuple[int, ...] else hint


def build(config: type[C], values: dict[str, Any]) -> C:
    """Takes a config's fields out of a command's arguments."""
    return config(**{name: values.pop(name) for name in config.help()})


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that its user has given, and not left at their defaults."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in values.items() if source(name) is not ParameterSource.DEFAULT}


def shared(name: str) -> Callable[[F], F]:
    """Options that several commands have, spelled the same in each."""
    made: dict[str, Callable[[F], F]] = {
        "backbone": click.option(
            "-m", "--backbone", required=True, help="The language model: hub id, folder, or the word nano."
        ),
        "revision": click.option("--revision", help="Commit, branch or tag of a model on the hub."),
        "device": click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1, mps, auto, or spread (a model too large for one GPU over all of them).",
        ),
        "dtype": click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="auto",
            show_default=True,
            help="Number type of the backbone; 8bit and 4bit need bitsandbytes.",
        ),
        "column": click.option("--column", help="Column or key that holds the text, if it has an unusual name."),
        "split": click.option("--split", default="train", show_default=True, help="Split of a data set on the hub."),
        "text": click.option("-t", "--text", "texts", multiple=True, help="A text, instead of a file; repeatable."),
    }
    return made[name]
