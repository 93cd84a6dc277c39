"""How fast a large page responds: `python benchmarks/page.py` (needs chromium).

A circuit of 300 edges in a model of 30 layers of 9 heads, like SmolLM2. Prints the milliseconds
from an event to the end of the layout it causes, in a headless browser: median and slowest of 20.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from acdc_explain.records.circuit import Circuit, Faithfulness
from acdc_explain.records.graph import Graph
from acdc_explain.records.run.header import RunHeader
from acdc_explain.records.run.run import Run
from acdc_explain.report.html import page
from benchmarks.store import random_records

EDGES, LAYERS, HEADS = 300, 30, 9
PLAY = """
<script>
addEventListener("load", () => {
  const took = {}, nodes = [...document.querySelectorAll(".node")];
  const time = (what, act) => {
    const start = performance.now();
    act();
    document.body.getBoundingClientRect(); // the layout is done
    (took[what] ||= []).push(performance.now() - start);
  };
  const set = (id, value) => { const x = document.getElementById(id); x.value = value; x.dispatchEvent(new Event("input")); };
  for (let i = 0; i < 20; i++) {
    time("click", () => nodes[(7 * i) % nodes.length].dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true })));
    time("role", () => set("role", i % 2 ? "" : "other"));
    time("verdict", () => set("outcome", i % 2 ? "" : "supported"));
    time("weight", () => set("weight", 5 * i));
  }
  const out = document.createElement("pre");
  out.id = "took";
  out.textContent = JSON.stringify(took);
  document.body.append(out);
});
</script>
"""  # noqa: E501


def large_run() -> Run:
    """A run with a large circuit and random evidence, labels and verdicts."""
    rng = random.Random(0)
    edges = tuple(rng.sample(list(Graph(LAYERS, HEADS).edges()), EDGES))
    circuit = Circuit("t", "m", "acdc", {}, edges, 123_211, 30_000,
                      Faithfulness("logit_diff", 3.0, 2.5, 0.1, 0.2), 10.0, 0.1)  # fmt: skip
    evidence, labels, verdicts = [], [], []
    for node in circuit.components:
        node_evidence, label, node_verdicts = random_records(circuit.id, node, rng)
        evidence.append(node_evidence)
        labels.append(label)
        verdicts += node_verdicts
    header = RunHeader("0" * 16, "ioi", "t", "big", "m", circuit.id, "done",
                       "2026-01-01T00:00:00Z", 0, {}, {})  # fmt: skip
    return Run(header, circuit, evidence, labels, verdicts, [], [])


def main() -> None:
    browser = shutil.which("chromium") or sys.exit("chromium is not installed")
    text = page(large_run())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.html"
        file.write_text(text.replace("</body>", PLAY + "</body>"), encoding="utf-8")
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", file.as_uri()],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    times = re.search(r'<pre id="took">(.*?)</pre>', done.stdout)
    assert times is not None
    panels = text.count('class="panel"')
    print(f"{EDGES} edges, {panels} panels, {len(text) / 1e6:.2f} MB")
    for event, milliseconds in json.loads(times[1]).items():
        milliseconds.sort()
        median = milliseconds[len(milliseconds) // 2]
        print(f"{event:8} median {median:6.1f} ms, slowest {milliseconds[-1]:6.1f} ms")


if __name__ == "__main__":
    main()
