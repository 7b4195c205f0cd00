"""What every page needs: its parts from the package, and a policy that forbids it the network."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

__all__ = ["asset", "policy", "source"]


@lru_cache(maxsize=16)
def asset(name: str) -> str:
    """A text file of `volad/report`: a template, or what lies in `assets/`."""
    return files("volad.report").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=16)
def source(text: str) -> str:
    """A script or style as a Content-Security-Policy names it: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(style: str, *scripts: str) -> str:
    """Forbid the browser any request, and any script and style but the page's own."""
    allowed = f"script-src {' '.join(source(text) for text in scripts)}; " if scripts else ""
    return (
        f"default-src 'none'; {allowed}style-src {source(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
