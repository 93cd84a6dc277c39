"""Print the lowest versions that pyproject.toml allows, as constraints for `make lowest`.

torch is left out: its older wheels are many hundred megabytes each, so the installed one stays.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
NEEDED = re.compile(r"(?P<name>[\w-]+)>=(?P<lower>[\w.]+),<(?P<upper>[\w.]+)")


def requirements() -> list[str]:
    """Every requirement of the project and its extras, without references to the extras."""
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    return [r for r in [*PROJECT["dependencies"], *extras] if not r.startswith("acdc-explain[")]


def constraints() -> list[str]:
    matches = [NEEDED.fullmatch(requirement) for requirement in requirements()]
    return [f"{m['name']}=={m['lower']}" for m in matches if m and m["name"] != "torch"]


if __name__ == "__main__":
    print("\n".join(constraints()))
