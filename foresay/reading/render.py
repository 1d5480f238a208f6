"""Pages: HTML files that stand alone, from templates that escape all text.

In: a template's name and its values. Out: HTML without scripts, without anything from the network.
Be careful with text that a model wrote: it goes through `{{ }}`, never through `| safe`, and characters that no page
may hold are replaced.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..shown import clean


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


def visible(text: str) -> str:
    """A token as it reads on one line: line breaks and other control characters as escapes, a space as ␣."""
    if not text.strip(" "):
        return "␣" * len(text) or "∅"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip(" "))
