"""The pictures in the README: `python docs/screenshots.py` (needs chromium)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from acdc_explain import Store, explain
from acdc_explain.output.terminal import PlainConsole
from acdc_explain.report.html import page
from acdc_explain.report.text.run import show_run
from acdc_explain.report.text.search import show_matches

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1400, 1150
CHOOSE = """
addEventListener("load", () => document.querySelector('[data-node="a0.h1"]')
  .dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true })));
"""


def main() -> None:
    browser = shutil.which("chromium") or sys.exit("there is no chromium")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s.duckdb")
        explain("induction", store=store)
        run = explain("ioi", store=store)
        terminal("show", lambda out: show_run(run, out))
        found = store.search(pattern="previous_token -k-> induction[verdict=supported] -*-> logits")
        terminal("search", lambda out: show_matches(found, out))
        file = Path(folder) / "run.html"
        chosen = f"<script>{CHOOSE}</script></body>"
        file.write_text(page(run).replace("</body>", chosen), encoding="utf-8")
        picture = HERE / "page.png"
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}", file.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
        print(picture)


def terminal(name: str, show) -> None:  # type: ignore[no-untyped-def]
    """What a command prints, as a picture."""
    with open("/dev/null", "w") as nowhere:
        out = PlainConsole(record=True, width=140, file=nowhere)
        show(out)
    picture = HERE / f"{name}.svg"
    drawn = out.export_svg(title=f"acdc-explain {name}")
    picture.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S))  # fonts from afar
    print(picture)


if __name__ == "__main__":
    main()
