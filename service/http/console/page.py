"""The page of the console, as the service answers it; it knows no route and no number.

Its style and its scripts are files beside this one. They are put into the page, so that it is whole after one
request, and the page may run these and no other.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

# Each uses those before it.
SCRIPTS = ("numbers.js", "drawings.js", "cards.js", "feedback.js", "console.js")


class Page(NamedTuple):
    """The bytes of the page, and the headers that bound what it may do."""

    body: bytes
    headers: dict[str, str]


def read_page() -> Page:
    """The page of this package's files."""
    html, style = _read("console.html"), _read("console.css")
    script = "\n".join(map(_read, SCRIPTS))
    body = html.replace("/* style */", style).replace("/* script */", script)
    # What a browser fetches by itself stays on this origin; a name in a number can be no script.
    policy = {
        "default-src": "'none'",
        "script-src": _digest(script),
        "style-src": _digest(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return Page(
        body.encode(),
        {
            "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        },
    )


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """How a policy names an inline style or script."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
