"""Texts of others on a screen: what a document or a model says, without what would steer the terminal or the page.

In: any text. Out: the same, with control characters replaced: an escape sequence in a document could recolour,
overwrite or retitle the terminal that shows it.
Careful: `clean` keeps the length, so places in a text stay right; joiners inside an emoji or a Persian word stay too.
"""

from unicodedata import category

_KEPT = "\n\t"
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's marks that make what follows run the other way."""


def size(count: float) -> str:
    """So many bytes in the unit that fits: `3 bytes`, `12.0 kB`, `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} bytes" if unit == "bytes" else f"{count:,.1f} {unit}"


def clean(text: str) -> str:
    """Text without control characters, which HTML does not allow, and without marks that turn the text around them."""
    return "".join("\ufffd" if c not in _KEPT and (category(c) == "Cc" or c in _TURNING) else c for c in text)


def one_line(text: str, most: int = 0) -> str:
    """A text on one line, as `clean` leaves it; cut to so many characters and a dot, where `most` is given."""
    line = clean(" ".join(text.split()))
    return f"{line[:most]}…" if 0 < most < len(line) else line
