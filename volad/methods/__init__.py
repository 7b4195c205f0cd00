"""Step 4: one file per anomaly method. The file name is the method's name."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from volad.errors import UsageError

if TYPE_CHECKING:
    from volad.methods._base import Method

__all__ = ["documentation", "load", "names", "summary"]


def names() -> list[str]:
    """Every method's name, read from the file names."""
    return sorted(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> type[Method]:
    """The class that `volad/methods/<name>.py` defines; imports torch."""
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names())}"
        raise UsageError(f"no method named {name!r}; {hint}")
    module = import_module(f"{__name__}.{name}")
    method: type[Method] = getattr(module, module.__all__[0])
    return method


def summary(name: str) -> str:
    """The first line of the method's documentation, read without importing the method."""
    source = (Path(__path__[0]) / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def documentation(name: str) -> str:
    """A method's module and class documentation, read without importing it."""
    if name not in names():
        load(name)  # raises with a hint
    tree = ast.parse((Path(__path__[0]) / f"{name}.py").read_text(encoding="utf-8"))
    texts = [ast.get_docstring(tree)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            first = next((n for n in node.body if isinstance(n, ast.FunctionDef)), None)
            arguments = ast.unparse(first.args) if first and first.name == "__init__" else ""
            texts.append(f"{node.name}({arguments})\n\n{ast.get_docstring(node) or ''}")
    return "\n\n".join(text for text in texts if text)
