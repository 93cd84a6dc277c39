"""oneDNN's product against torch.matmul's for SmolLM2's shapes: `python benchmarks/product.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(work: Callable[[], object], repeats: int = 20) -> float:
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    onednn = torch.ops.mkldnn._linear_pointwise
    print("rows x into x out    torch.matmul    oneDNN    GFLOP/s")
    for rows in (8, 117, 468, 936):
        for into, out in ((576, 1536), (1536, 576), (576, 64), (64, 1536)):
            x, matrix = torch.randn(rows, into), torch.randn(into, out)
            transposed = matrix.T.contiguous()
            operations = 2e-9 * rows * into * out
            plain = median_seconds(lambda x=x, m=matrix: x @ m)  # type: ignore[misc]
            fast = median_seconds(
                lambda x=x, t=transposed: onednn(x, t, None, "none", [], "")  # type: ignore[misc]
            )
            print(
                f"{f'{rows} x {into} x {out}':>18}    {operations / plain:12.0f}    "
                f"{operations / fast:6.0f}"
            )


if __name__ == "__main__":
    main()
