"""popgd's docstrings are plain text: names and what they are in two columns, indented programs,
letters with stars. This griffe extension makes Markdown of them.
"""

import re
from typing import Any

import griffe

#: A name, or several, two spaces or more, and what it is.
COLUMNS = re.compile(r"^(\w[\w, ]*?) {2,}(\S.*)$")


def markdown(text: str) -> str:
    """The same as Markdown that shows what a terminal shows."""
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text.strip("\n")))


def _block(block: str) -> str:
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines):
        return "```text\n" + "\n".join(line[4:] for line in lines) + "\n```"
    if COLUMNS.match(lines[0]):
        return _columns(lines)
    return "\n".join(_escaped(line.strip()) for line in lines)


def _columns(lines: list[str]) -> str:
    """Names and what they are, continued on indented lines, as a list."""
    items: list[list[str]] = []
    for line in lines:
        if found := COLUMNS.match(line):
            items.append([found[1], found[2]])
        elif line.startswith("  "):
            items[-1][1] += " " + line.strip()
        elif found := re.match(r"^(\w+) (.*)$", line):  # a name as long as its column
            items.append([found[1], found[2]])
    return "\n".join(f"- `{name}`: {_escaped(what)}" for name, what in items)


def _escaped(line: str) -> str:
    """Markdown's signs as they are, outside backticks."""
    parts = line.split("`")
    for i in range(0, len(parts), 2):
        plain = parts[i].replace("&", "&amp;").replace("<", "&lt;")
        parts[i] = re.sub(r"([\\*_|>\[\]])", r"\\\1", plain)
    return "`".join(parts)


def _fields(cls: Any) -> str:
    """How a NamedTuple is made."""
    lines = [f"{cls.name}("]
    for name, field in cls.attributes.items():
        if field.annotation is not None:
            default = f" = {field.value}" if field.value is not None else ""
            lines.append(f"    {name}: {field.annotation}{default},")
    return "```python\n" + "\n".join([*lines, ")"]) + "\n```"


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: Any, **rest: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_class_members(self, *, cls: Any, **rest: Any) -> None:
        if "StrEnum" in map(str, cls.bases) and not cls.docstring:
            words = ", ".join(f"`{name}`" for name in cls.attributes)
            cls.docstring = griffe.Docstring(f"One of {words}.", parent=cls)
        if cls.docstring and "NamedTuple" in map(str, cls.bases):
            cls.docstring.value = f"{_fields(cls)}\n\n{cls.docstring.value}"
