"""Files to rows: JSON lines, JSON arrays, CSV, TSV, Parquet, plain text, all of them gzipped, folders, hub data sets.

In: a path or a hub id. Out: numbered rows (dictionaries), streamed, or a `Reject` in the place of a row that is none.
Be careful with quotes. A TSV has none: a quote is a character. In a CSV a quote that never closes swallows the rows
behind it, so that is an error that names the line where it opens.
"""

import codecs
import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from ..errors import DataError
from ..files import load_object, unzipping

LONGEST_CELL = 1 << 27
"""Characters of a CSV cell; the csv module's own limit, 131,072, is less than a long document."""

_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used: the row as text, why, and its line (or row number) where that is known."""

    row: str
    reason: str
    line: int | None = None


_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
Row = tuple[int, dict[str, Any]] | Reject


def printable(row: dict[str, Any] | str) -> str:
    """A row as text that any JSON file can hold: what is not valid Unicode is spelt out."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode()


def rows_of(source: str, split: str) -> Iterator[Row]:
    """The rows of a file, of a folder of files of one kind, or of a hub data set.

    Raises:
        DataError: if there is no such thing, or its kind is not known.
    """
    path = Path(source).expanduser()
    if (path / "foresay.json").is_file():
        raise DataError(f"{source} is a checkpoint; expected texts: the checkpoint goes first, then the texts")
    if path.is_dir():
        return _read_folder(path)
    read = _READERS.get(_ending(path))
    if read is not None and path.is_file():
        return _whole(path, read)
    if path.is_file():
        raise DataError(f"{path} has an unknown ending; expected {_ENDINGS}, or one of these with .gz: rename the file")
    if read is None and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _read_hub(source, split)
    raise DataError(
        f"there is no {source}; expected a file ending in {_ENDINGS} (also .gz), a folder of such files, "
        "or a hub data set org/name"
    )


def _ending(path: Path) -> str:
    """The ending that tells a file's kind: `.jsonl` for `q.jsonl.gz`."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == ".gz" else suffix


def _read_folder(folder: Path) -> Iterator[Row]:
    """The files of one kind in a folder, as data sets in shards are stored; in the order of their names."""
    files = sorted(file for file in folder.iterdir() if _ending(file) in _READERS and not file.name.startswith("."))
    kinds = {_ending(file) for file in files}
    if len(kinds) != 1:
        found = f"files ending in {' and '.join(sorted(kinds))}" if kinds else "no file that can be read"
        raise DataError(f"the folder {folder} holds {found}; expected files of one kind among {_ENDINGS}: name a file")
    for file in files:
        for row in _whole(file, _READERS[_ending(file)]):
            yield Reject(row.row, f"{file.name}: {row.reason}", row.line) if isinstance(row, Reject) else row


def _whole(path: Path, read: Callable[[Path], Iterator["Row"]]) -> Iterator[Row]:
    """The rows of a file; DataError where it is torn or damaged further on."""
    try:
        with unzipping(path):
            yield from read(path)
    except UnicodeDecodeError as error:  # of UTF-16 and UTF-32: what is wrong in UTF-8 spoils its own row only
        raise DataError(f"{path} is not whole {error.encoding} text ({error.reason}); convert it to UTF-8") from error


def _open(path: Path, newline: str | None = None) -> IO[str]:
    """Opens a text file in the encoding that its byte order mark names, else UTF-8.

    A byte that does not fit becomes a lone surrogate, which spoils its own row only.

    Raises:
        DataError: if it is UTF-16 without a mark, or not gzipped though its name says so.
    """
    raw = cast(IO[bytes], gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))
    try:
        start = raw.read(512)
        raw.seek(0)
    except gzip.BadGzipFile as error:
        raw.close()
        raise DataError(f"{path} is not gzipped ({error}); take the .gz off its name, or zip it: gzip FILE") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raw.close()
        raise DataError(f"{path} is not UTF-8 text; if it is UTF-16, convert it: iconv -f UTF-16LE -t UTF-8")
    return io.TextIOWrapper(raw, encoding=encoding, errors="surrogateescape", newline=newline)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def _read_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        yield number, {"query": line}


def _read_json(path: Path) -> Iterator[Row]:
    """An object a line; or one array of objects, which is read whole."""
    with _open(path) as file:
        array = _array(file.read()) if file.read(1) == "[" else None
    if array is not None:
        for number, row in enumerate(array, 1):
            yield (number, row) if isinstance(row, dict) else Reject(printable(str(row)), "not a JSON object", number)
        return
    for number, line in _lines(path):
        row = load_object(line)
        yield (number, row) if row is not None else Reject(printable(line), "the line is not a JSON object", number)


def _array(rest: str) -> list[Any] | None:
    """The array that begins with a bracket and goes on like this; None if the bracket began something else."""
    try:
        found = json.loads("[" + rest)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and any(isinstance(row, dict) for row in found) else None


def _read_tsv(path: Path) -> Iterator[Row]:
    """Cells between tabs. The format has no quoting."""
    lines = _lines(path)
    _, first = next(lines, (0, ""))
    header = first.split("\t")
    _check_header(header, path, "\t")
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) > len(header):
            yield Reject(printable(line), "the row has more cells than the header", number)
        else:
            yield number, dict(zip(header, cells, strict=False))


def nearly(found: Sequence[str], names: Sequence[str]) -> str:
    """A hint at a column that would be one of these but for capitals or white space; empty if there is none."""
    plain = {name.strip().lower(): name for name in names}
    written = next((name for name in found if name.strip().lower() in plain), None)
    return "" if written is None else f"; {written!r} is not {plain[written.strip().lower()]!r}: mend the header"


def _check_header(names: Sequence[str], path: Path, separator: str) -> None:
    """DataError if cells seem to be separated by something else, or a column's name is there twice.

    One of the two would silently not be read.
    """
    for other in set(_SEPARATORS) - {separator} if len(names) == 1 else ():
        if re.fullmatch(rf"[\w ]+(?:{re.escape(other)}[\w ]+)+", names[0]):
            raise DataError(
                f"{path} has one column, {names[0]!r}, as if {_SEPARATORS[other]} separated its cells; expected "
                f"{_SEPARATORS[separator]} (.csv takes commas, .tsv tabs): save it so"
            )
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path} has two columns called {twice[0]!r}; rename one of them")


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(max(LONGEST_CELL, csv.field_size_limit()))
    with _open(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        line = 1
        try:
            _check_header(reader.fieldnames or (), path, ",")
            for row in reader:
                if None in row:  # a comma outside quotes: the text would silently be cut there
                    yield Reject(printable(row), "the row has more cells than the header", reader.line_num)
                else:
                    yield reader.line_num, row
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: the quotes of this row do not match ({error}, at line {reader.line_num}); "
                'close the quote, and write a quote inside a quoted cell twice: "Who sang ""Help!""?"'
            ) from error


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file ({error}); expected one") from error
    with file:
        yield from enumerate((row for batch in file.iter_batches(1024) for row in batch.to_pylist()), 1)


def _read_hub(name: str, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"cannot read the hub data set {name!r}, split {split!r}: {reason} (expected an id such as "
            f"org/name, or a file ending in {_ENDINGS})"
        ) from error
    yield from enumerate(rows, 1)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}
_ENDINGS = ", ".join(_READERS)
