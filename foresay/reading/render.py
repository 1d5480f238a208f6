"""Pages: HTML files that stand alone, from templates that escape all text.

In: a template's name and its values. Out: HTML without scripts, without anything from the network.
Be careful with text that a model wrote: it goes through `{{ }}`, never through `| safe`, and characters that no page
may hold are replaced.
"""

from functools import cache
from unicodedata import category

from jinja2 import Environment, PackageLoader, StrictUndefined

_KEPT = "\n\t"
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Unicode's marks that make what follows run the other way."""


def page(template: str, **values: object) -> str:
    """Fills a template of the folder `templates`."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    loader = PackageLoader("foresay.reading", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clean"] = clean
    environment.filters["visible"] = visible
    return environment


def clean(text: str) -> str:
    """Text without control characters, which HTML does not allow, and without marks that turn the text around them."""
    return "".join("\ufffd" if c not in _KEPT and (category(c) == "Cc" or c in _TURNING) else c for c in text)


def visible(text: str) -> str:
    """A token as it reads on one line: line breaks and other control characters as escapes, a space as ␣."""
    if not text.strip(" "):
        return "␣" * len(text) or "∅"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip(" "))
