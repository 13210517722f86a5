"""The pages people read, as tests see them: code blocks, shell commands, links, marked tables."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A Markdown file of the repository, by its path from the root."""

    name: str

    @cached_property
    def text(self) -> str:
        return (REPOSITORY / self.name).read_text(encoding="utf-8")

    @property
    def folder(self) -> Path:
        return (REPOSITORY / self.name).parent

    @cached_property
    def prose(self) -> str:
        """The page without its code blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """Targets of links and images, in order."""
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`: headings as GitHub spells them."""
        spelled = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(self.prose))
        return {heading.replace(" ", "-") for heading in spelled}

    def blocks(self, language: str) -> list[str]:
        """The code blocks in a language."""
        return [text for _, name, text in _BLOCK.findall(self.text) if name == language]

    def commands(self) -> list[list[str]]:
        """The shell commands, comments removed, split into words."""
        return [words for block in self.blocks("sh") for words in _commands_of(block)]

    def marked(self, mark: str) -> str:
        """What stands between `<!-- MARK -->` and `<!-- /...-->`."""
        found = re.search(rf"<!-- {re.escape(mark)} -->\n(.*?)<!-- /", self.text, flags=re.DOTALL)
        assert found is not None, f"{self.name} has no <!-- {mark} -->"
        return found.group(1)

    def rows(self, mark: str) -> list[list[str]]:
        """The cells of a marked table, without its head."""
        lines = [line for line in self.marked(mark).splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def pages() -> list[Page]:
    """Every page, README first."""
    folders = sorted((*REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/**/*.md")))
    names = [str(path.relative_to(REPOSITORY)) for path in folders]
    return [Page(name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *names)]


def _commands_of(block: str) -> list[list[str]]:
    commands: list[list[str]] = []
    pending = ""
    for line in block.replace("\\\n", " ").splitlines(keepends=True):
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote that a later line closes
            continue
        pending = ""
        if words:
            commands.append(words)
    assert not pending, f"a quote is not closed in {block!r}"
    return commands
