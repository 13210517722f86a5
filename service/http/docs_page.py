"""Renders an OpenAPI document as one HTML page without scripts; it knows no route.

FastAPI's own page loads Swagger from the internet, which a bidding machine may not reach.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #8881; padding: .7rem 1rem; overflow: auto; font-size: .85rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid #8884 }
h2 { margin-top: 2.5rem } code { font-size: .9em } summary { cursor: pointer }
.method { background: #2a6; color: #fff; padding: .1rem .5rem; border-radius: .3rem; font-size: .8em }
"""


def draw_docs(document: dict[str, Any]) -> str:
    """The page: every path of `document` with its parameters, bodies and answers, examples and schemas."""
    info = document["info"]
    sections = [
        _operation(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    schemas = [
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>{_pre(schema)}</details>"
        for name, schema in document.get("components", {}).get("schemas", {}).items()
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])}</h1><p>{_prose(info.get('description', ''))}</p>"
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a>.</p>"
        f"{''.join(sections)}<h2>Schemas</h2>{''.join(schemas)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<h2><span class='method'>{escape(method.upper())}</span> <code>{escape(path)}</code></h2>",
        f"<p><strong>{escape(operation.get('summary', ''))}</strong></p>",
        *(f"<p>{_prose(text)}</p>" for text in operation.get("description", "").split("\n\n")),
    ]
    rows = [
        f"<tr><td><code>{escape(item['name'])}</code></td><td>{escape(item['in'])}</td>"
        f"<td>{_prose(item.get('description', ''))}</td></tr>"
        for item in operation.get("parameters", [])
    ]
    if rows:
        parts.append(f"<table><tr><th>Parameter</th><th>In</th><th></th></tr>{''.join(rows)}</table>")
    if "requestBody" in operation:
        parts.append(f"<h3>Request</h3>{_content(operation['requestBody']['content'])}")
    for status, answer in operation["responses"].items():
        parts.append(f"<h3>{escape(status)}</h3><p>{_prose(answer.get('description', ''))}</p>")
        parts.append(_content(answer.get("content", {})))
    return "".join(parts)


def _content(content: dict[str, Any]) -> str:
    """The media types of a body, its schema's name, and its examples, which all media types share."""
    if not content:
        return ""
    types = ", ".join(f"<code>{escape(name)}</code>" for name in content)
    described = next(iter(content.values()))
    name = described.get("schema", {}).get("$ref", "").rpartition("/")[2]
    link = f" as <a href='#{escape(name)}'><code>{escape(name)}</code></a>" if name else ""
    examples = {key: example["value"] for key, example in described.get("examples", {}).items()}
    if "example" in described:
        examples["example"] = described["example"]
    drawn = [f"<p>{escape(key)}</p>{_pre(value)}" for key, value in examples.items()]
    return f"<p>{types}{link}</p>{''.join(drawn)}"


def _pre(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def _prose(text: str) -> str:
    """A description, with backquoted parts as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
