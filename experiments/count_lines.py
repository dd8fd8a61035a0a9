"""Lines of popgd that are neither blank nor comment nor docstring, by room.

    python experiments/count_lines.py [FOLDER]

prints a line for each folder in FOLDER/popgd, its files directly in it as `.`, and FOLDER's
experiments and tests; by default those of this file.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

#: Tokens that make no line one of code.
SILENT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip
DOCUMENTED = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef


def lines(source: str) -> int:
    """How many lines of a program hold code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {
        line
        for token in tokens
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            code -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return len(code)


def rooms(root: Path) -> Counter[str]:
    """The lines of code in each room below a checkout."""
    found: Counter[str] = Counter()
    for file in sorted(root.glob("popgd/**/*.py")):
        inside = file.relative_to(root).parts
        found["popgd/" + (inside[1] if len(inside) > 2 else ".")] += lines(file.read_text())
    for folder in ("experiments", "tests"):
        for file in sorted((root / folder).glob("**/*.py")):
            found[folder] += lines(file.read_text())
    return found


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = rooms(root)
    for name, count in found.items():
        print(f"{name:20} {count:6}")
    print(f"{'popgd':20} {sum(n for name, n in found.items() if name.startswith('popgd')):6}")


if __name__ == "__main__":
    main()
