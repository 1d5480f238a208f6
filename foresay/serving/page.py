"""The documentation page: every route with its fields, as plain HTML without scripts.

In: the OpenAPI description. Out: a page that needs nothing from elsewhere, so it works offline and behind the server's
own content security policy.
Be careful: everything that comes from the description is escaped.
"""

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 code { background: #eef; padding: .1em .4em; border-radius: .3em; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; }
td { border-top: 1px solid #ddd; padding: .3rem .6rem .3rem 0; vertical-align: top; }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap; }
"""


def documentation(spec: dict[str, Any]) -> str:
    """The page."""
    schemas = spec.get("components", {}).get("schemas", {})
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>{escape(spec['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(spec['info']['title'])} {escape(spec['info']['version'])}</h1>",
        f"<p>{escape(spec['info'].get('description', ''))}</p>",
        "<p>For programs: <a href='/openapi.json'>/openapi.json</a>.</p>",
    ]
    for path, methods in spec["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('description', ''))}</p>{_fields(route, schemas)}")
    return "\n".join(parts)


def _fields(route: dict[str, Any], schemas: dict[str, Any]) -> str:
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    schema = schemas.get(name, {})
    rows = [
        f"<tr><td>{escape(field)}{'' if field in schema.get('required', ()) else '?'}</td>"
        f"<td>{escape(_kind(about))}</td><td>{escape(about.get('description', ''))}</td></tr>"
        for field, about in schema.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _kind(about: dict[str, Any]) -> str:
    """A field's type in words."""
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(_kind(one) for one in about["anyOf"]))
    if "enum" in about:
        return ", ".join(map(str, about["enum"]))
    if "$ref" in about:
        return str(about["$ref"]).rpartition("/")[2]
    if about.get("type") == "array":
        return f"list of {_kind(about.get('items', {}))}"
    return str(about.get("type", "anything"))
