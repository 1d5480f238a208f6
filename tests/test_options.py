"""One name for one thing on the command line, and every line that is written down is one that the commands take."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from foresay.cli.main import main
from foresay.quickstart import nano, smollm2

ROOT = Path(__file__).parents[1]
OPTIONS = [
    (name, option)
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]
LETTERS = {"-m": "--backbone", "-t": "--teacher", "-o": "--output", "-f": "--file", "-v": "--verbose"}
POSITIONS = ("checkpoint", "index")
"""Arguments that come first wherever a command takes them, in this order."""


def long(option: click.Option) -> str:
    """The long name."""
    return next(name for name in option.opts if name.startswith("--"))


def kind(option: click.Option) -> str:
    """What an option takes. A path and a word from a list are texts too."""
    if option.is_flag:
        return "flag"
    words = {"text", "string", "path", "choice"}
    name = "text" if option.type.name in words else option.type.name
    return f"{name}{', repeatable' * option.multiple}"


def test_a_letter_is_one_option_and_an_option_has_its_letter_everywhere() -> None:
    """`-t` is the teacher in each command that has one, and nothing else."""
    for command, option in OPTIONS:
        letters = [name for name in option.opts if not name.startswith("--")]
        assert letters == [letter for letter, name in LETTERS.items() if name == long(option)], (command, option.opts)


def test_a_long_name_takes_the_same_everywhere() -> None:
    """A number in one command is no file in another."""
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for command, option in OPTIONS:
        kinds[long(option)][kind(option)].append(command)
    assert not {name: dict(found) for name, found in kinds.items() if len(found) > 1}


def test_choices_agree() -> None:
    """Where two commands let one choose, the shorter list is part of the longer one."""
    found: dict[str, list[set[str]]] = defaultdict(list)
    for _, option in OPTIONS:
        if isinstance(option.type, click.Choice):
            found[long(option)].append(set(option.type.choices))
    for name, choices in found.items():
        assert all(some <= max(choices, key=len) for some in choices), name


def test_checkpoint_then_index_come_first() -> None:
    """And what `-m`, `-t` and `-o` take is an argument nowhere."""
    named = {name.removeprefix("--") for name in LETTERS.values()}
    for command in main.commands.values():
        arguments = [str(each.name) for each in command.params if isinstance(each, click.Argument)]
        first = [name for name in POSITIONS if name in arguments]
        assert arguments[: len(first)] == first, command.name
        assert not named & set(arguments), command.name


def written(text: str) -> Iterator[str]:
    """The command lines of a text: each that starts with `foresay`; `\\` continues one."""
    return iter(re.findall(r"(?m)^ *(?:\$ )?(foresay [a-z].*)$", text.replace("\\\n", " ")))


def mentioned(text: str) -> Iterator[str]:
    """What a sentence quotes of a command line, often without all its arguments."""
    return (line for line in re.findall(r"`(foresay [a-z][^`…]*)`", text) if " -" in line)


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.sh")),
    *sorted((ROOT / "foresay").glob("*/*/README.md")),
    ROOT / "foresay" / "teachers" / "card.py",
    ROOT / "foresay" / "checkpoints" / "card_template.md",
]
TEXTS = {
    **{str(page.relative_to(ROOT)): page.read_text() for page in PAGES},
    **{f"foresay {name} --help": str(command.epilog) for name, command in main.commands.items()},
    "foresay --help": str(main.help),
    "quickstart": smollm2._FAREWELL + nano._FAREWELL,
}
LINES = [(place, line) for place, text in TEXTS.items() for line in written(text)]
MENTIONS = [(place, line) for place, text in TEXTS.items() for line in mentioned(text)]


def test_lines_are_found() -> None:
    """In the pages that have some, and in the help of every command."""
    places = {place for place, _ in LINES}
    assert {"README.md", "docs/teacher.md", "recipes/paper_v2.sh", "quickstart", "foresay --help"} <= places
    assert {f"foresay {name} --help" for name in main.commands} <= places


def parse(line: str) -> None:
    """Takes a line apart as the command does. The files of an example are not here."""
    words = shlex.split(re.sub(r"\$(steps|seed)", "1", re.sub(r"\s#.*$", "", line)))[1:]
    words = words[: words.index(">")] if ">" in words else words
    with click.Context(main, info_name="foresay") as parent:
        try:
            main.commands[words[0]].make_context(words[0], words[1:], parent=parent)
        except click.BadParameter as error:
            if "does not exist" not in str(error):
                raise


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place}: {line[:60]}" for place, line in LINES])
def test_a_line_that_is_written_down_parses(place: str, line: str) -> None:
    """Options that are gone, arguments in another order and wrong values fail here."""
    parse(re.sub(r" {4,}.*$", "", line) if place == "quickstart" else line)


@pytest.mark.parametrize(("place", "line"), MENTIONS, ids=[f"{place}: {line[:60]}" for place, line in MENTIONS])
def test_a_line_that_is_quoted_parses(place: str, line: str) -> None:
    """As far as it goes."""
    try:
        parse(line)
    except (click.MissingParameter, click.exceptions.Exit):  # Exit: --help
        pass
    except click.BadOptionUsage as error:
        assert str(error).endswith("requires an argument."), error
