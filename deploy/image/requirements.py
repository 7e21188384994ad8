"""Print for pip what pyproject.toml asks for: the base and the named extras, but not our own code.

So the environment's layer stays the same while only the code changes.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """`python requirements.py [EXTRA…]`, beside pyproject.toml."""
    directory = Path(sys.argv[0]).resolve().parent
    found = next(
        path
        for folder in (directory, *directory.parents)
        if (path := folder / "pyproject.toml").exists()
    )
    project = tomllib.loads(found.read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for name in sys.argv[1:]:
        if name not in extras:
            sys.exit(f"pyproject.toml has no extra {name!r}; it has {', '.join(sorted(extras))}")
        wanted += extras[name]
    print(*wanted, sep="\n")  # noqa: T201, this is what it is for


if __name__ == "__main__":
    main()
