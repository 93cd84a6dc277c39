"""What each stage of a whole run costs: `python benchmarks/run.py ioi --model smollm2-135m ...`.

Times are in seconds and in plain forward passes of the held-out batch, timed before and after in
the same process. Memory is the most that the process held during the stage.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import acdc_explain as ax
from acdc_explain.plugins import load_plugins

NOT_EVIDENCE = ("start", "load", "behavior", "discover", "faithfulness", "label", "summary")


def resident() -> float:
    """Gigabytes of memory that this process holds now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e6
    raise SystemExit("this needs /proc/self/status")


class Stages:
    """A progress display that times stages and watches memory meanwhile."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        self.now, self.since = "start", time.perf_counter()
        self.running = True
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage != self.now:
            self._end()
            self.now = stage

    def stop(self) -> None:
        self._end()
        self.running = False
        self.watcher.join()

    def _end(self) -> None:
        now = time.perf_counter()
        self.seconds[self.now] = self.seconds.get(self.now, 0.0) + now - self.since
        self.since = now

    def _watch(self) -> None:
        while self.running:
            self.peak[self.now] = max(self.peak.get(self.now, 0.0), resident())
            time.sleep(0.02)


def forward_seconds(model: ax.Model, contrast: ax.Contrast) -> float:
    """The median time of a plain forward pass of the held-out prompts."""
    return statistics.median(model.forward_seconds(contrast.clean) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--discoverer", default="acdc")
    parser.add_argument("--max-edges", type=int)
    parser.add_argument("--examples", type=int, default=32)
    options = parser.parse_args()

    model = ax.load_model(options.model)
    task = load_plugins().tasks()[options.task](model, examples=options.examples, seed=0)
    contrast = ax.contrast(task, model, "held_out")
    forward = [forward_seconds(model, contrast)]
    settings = {} if options.max_edges is None else {"max_edges": options.max_edges}
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        run = ax.explain(options.task, model, store=Path(folder) / "store.duckdb",
                         discoverer=options.discoverer, examples=options.examples,
                         labeler="rules", progress=stages, **settings)  # fmt: skip
    stages.stop()
    forward.append(forward_seconds(model, contrast))
    report(stages, statistics.mean(forward), len(contrast))
    if run.coverage is not None:
        print(run.coverage.in_words)


def report(stages: Stages, forward: float, n: int) -> None:
    print(f"one forward pass of {n} held-out prompts: {forward:.3f} s")
    print(f"{'stage':24} {'seconds':>8} {'passes':>8} {'share':>6} {'peak GB':>8}")
    counted = {name: seconds for name, seconds in stages.seconds.items()
               if name not in NOT_EVIDENCE}  # fmt: skip
    total = sum(counted.values())
    for name, seconds in stages.seconds.items():
        share = f"{seconds / total:6.1%}" if name in counted else f"{'-':>6}"
        passes, peak = seconds / forward, stages.peak.get(name, 0.0)
        print(f"{name:24} {seconds:8.1f} {passes:8.1f} {share} {peak:8.2f}")
    print(f"evidence, claims and verdicts: {total / forward:.0f} forward passes; "
          f"everything: {sum(stages.seconds.values()):.0f} s, "
          f"peak {max(stages.peak.values()):.2f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
