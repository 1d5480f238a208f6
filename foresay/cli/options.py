"""What the commands are made of: options from the config classes, the options several share, errors as one line.

The group runs every command, so it is the one place where an error of our own tree turns into a line on stderr and exit
code 1. Anything else is a bug and keeps its traceback.
"""

import codecs
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ..config import DTYPES, Options
from ..errors import ForesayError
from ..outputs import unwritable

LETTERS = {"backbone": "-m", "teacher": "-t", "output": "-o", "file": "-f"}
"""The options that have a letter, which is the same in every command. (And -v and -h, which all have.)"""

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=Options)
_ESCAPED = "foresay-escaped"
"""How a terminal that is not in UTF-8 shows what it cannot: as JSON spells it, so that JSON stays JSON."""


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPED, _escape)


def _spell_everything(stream: io.TextIOWrapper) -> None:
    """Lets a stream write every text: ASCII, which means that nobody set a locale, is UTF-8 as it is for click."""
    encoding = codecs.lookup(stream.encoding).name
    if encoding == "ascii":
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # the bytes of a file's name go out as they came
    elif not encoding.startswith("utf"):
        stream.reconfigure(errors=_ESCAPED)


class Command(click.Command):
    """A command whose help groups the options of a config class, and ends with an example."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:  # noqa: ANN401
        """Takes what click takes.

        Args:
            *args: click's.
            example: shell lines, shown at the end of the help.
            **kwargs: click's.
        """
        lines = "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
        super().__init__(*args, **kwargs)
        self.epilog = f"\b\nExample:\n{lines}"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a list of options a section, those without a section first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _ConfigOption(click.Option):
    """An option made from a field of a config class."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.section = section


class HomePath(click.Path):
    """A path in which `~` is the home folder: a shell expands it in `-o ~/x`, and not in `--output=~/x`."""

    def __init__(self, **how: Any) -> None:  # noqa: ANN401 - what click takes
        """Takes what click takes."""
        super().__init__(path_type=Path, **how)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - as click's
        """The path, expanded."""
        return super().convert(os.path.expanduser(value), param, ctx)


class Text(click.ParamType[str]):
    """A text in UTF-8, whatever the locale says: under LC_ALL=C Python hands over its bytes as lone surrogates."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """The text, put together again; bytes that are not UTF-8 stay as they are, and are refused further on."""
        try:
            return os.fsencode(value).decode()
        except UnicodeError:
            return str(value)


def verbose() -> click.Option:
    """The option -v, which raises our own log level."""

    def louder(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            logging.getLogger("foresay").setLevel(logging.INFO)

    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=louder, help="Say more about what happens."
    )


class Group(click.Group):
    """Lists the commands in the order of the data, and prints our own errors as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are written."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command, and to it the option that all have: -v works before and after the command's name."""
        cmd.params.append(verbose())
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click's
        """Runs a command. Ctrl-C is said in words; and an EOFError is an error, where click takes it for Ctrl-D."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; run the same command again", err=True)
            raise click.exceptions.Exit(130) from None
        except EOFError as error:
            raise RuntimeError(f"a file ended too early: {error}") from error

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Runs the command line."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                _spell_everything(stream)
        try:
            return super().main(*args, **kwargs)
        except ForesayError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:  # the reader of our output has had enough, as `head` does
            sys.stderr.close()
            sys.exit(0)
        except Exception as error:
            told = unwritable(error) or _unspelled(error)
            if told is None:
                raise
            click.echo(f"error: {told}", err=True)
            sys.exit(1)


def _unspelled(error: Exception) -> str | None:
    """What a library's failure in a locale without UTF-8 has to be told as; None for any other error."""
    if not isinstance(error, UnicodeEncodeError):
        return None
    shown = error.object[error.start :][:20]
    if error.reason == "surrogates not allowed":
        try:
            shown = os.fsencode(error.object).decode(errors="replace")
        except UnicodeEncodeError:  # not a name's bytes, but half of a character, which no encoding has
            return f"a text holds {shown!r}, which is not valid Unicode: it begins with a lone surrogate; take it out"
    return f"a library cannot spell {shown!r} in this locale; repeat the command with PYTHONUTF8=1 before it"


def options(config: type[Options]) -> Callable[[F], F]:
    """Adds an option for each field of a config class."""

    def add(command: F) -> F:
        helps, types, sections, choices = config.help(), config.types(), config.sections(), config.choices()
        for field in reversed(fields(config)):  # type: ignore[arg-type]
            is_flag = types[field.name] is bool
            command = click.option(
                *_spelled(field.name),
                cls=_ConfigOption,
                is_flag=is_flag,
                type=None if is_flag else _kind(types[field.name], choices.get(field.name)),
                default=None if field.default is MISSING else field.default,
                show_default=True,
                multiple=types[field.name] == tuple[str, ...],
                help=helps[field.name],
                section=sections[field.name],
            )(command)
        return command

    return add


def _spelled(name: str) -> list[str]:
    letter = [LETTERS[name]] if name in LETTERS else []
    return [*letter, "--" + name.replace("_", "-")]


def option(name: str, *destination: str, **how: Any) -> Callable[[F], F]:  # noqa: ANN401 - what click takes
    """An option with its letter, where it has one."""
    return click.option(*_spelled(name), *destination, **how)


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


def _kind(hint: Any, choices: tuple[str, ...] | None) -> Any:  # noqa: ANN401 - a type, or what click takes for one
    if choices:
        return click.Choice(choices)
    if hint in (str, tuple[str, ...]):
        return Text()
    return _Numbers() if hint == tuple[int, ...] else hint


def build(config: type[C], values: dict[str, Any]) -> C:
    """Takes a config's fields out of a command's arguments."""
    return config(**{name: values.pop(name) for name in config.help()})


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Those of a command's arguments that its user has given, and not left at their defaults."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in values.items() if source(name) is not ParameterSource.DEFAULT}


def together(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several of click's decorators as one, in the order in which they would be written."""

    def add(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


def shared(name: str) -> Callable[[F], F]:
    """Options that several commands have, spelled the same in each."""
    made: dict[str, Callable[[F], F]] = {
        "backbone": option(
            "backbone",
            required=True,
            help="The language model: hub id, folder, GGUF file, or the word nano or smollm2.",
        ),
        "elsewhere": option("backbone", help="The language model, where it is not where the checkpoint says."),
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
            help="Dtype of the backbone; 8bit and 4bit need bitsandbytes.",
        ),
        "overwrite": click.option(
            "--overwrite",
            is_flag=True,
            help="Replace a checkpoint that is in OUTPUT already (fit replaces its own even without it).",
        ),
        "column": option("column", type=Text(), help="Column or key that holds the text, if it has an unusual name."),
        "split": click.option("--split", default="train", show_default=True, help="Split of a data set on the hub."),
        "text": option("text", "texts", type=Text(), multiple=True, help="A text, instead of a file; repeatable."),
    }
    return made[name]
