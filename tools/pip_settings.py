"""Make pip's settings here usable while an image is built, without leaving them in it.

    tools/pip_settings.py FILE

writes them as a `pip.conf` and prints the options by which buildah mounts the folders and files
that they name.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

WANTED = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "constraint")
INSIDE = Path("/run/pip")


def translate(listed: str) -> tuple[str, dict[Path, Path]]:
    """The text of a `pip.conf`, and which path here is to be mounted where.

    Args:
        listed: what `pip config list` printed; earlier lines win.
    """
    mounts: dict[Path, Path] = {}
    settings: dict[str, str] = {}

    def inside(word: str) -> str:
        path = Path(word.removeprefix("file://"))
        if not (path.is_absolute() and path.exists()):
            return word
        outer = path.parent if word.startswith("file://") else path  # an index links to siblings
        return word.replace(str(outer), str(mounts.setdefault(outer, INSIDE / str(len(mounts)))), 1)

    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in WANTED:
            words = ast.literal_eval(value).split()
            settings.setdefault(key, " ".join(inside(word) for word in words))
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return "\n".join(["[global]", *lines, ""]), mounts


if __name__ == "__main__":
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    text, places = translate(found.stdout)
    Path(sys.argv[1]).write_text(text)
    for here, there in places.items():
        print(f"--volume={here}:{there}:ro")
