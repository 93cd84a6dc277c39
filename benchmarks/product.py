"""Matrix products of oneDNN and torch.matmul in SmolLM2's shapes: run benchmarks/product.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(call: Callable[[], object], repeats: int = 20) -> float:
    """The median time of a call, after two that are not counted."""
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    onednn = torch.ops.mkldnn._linear_pointwise
    print("   rows x in x out    torch.matmul    oneDNN    GFLOP/s")
    for rows in (8, 117, 468, 936):
        for width_in, width_out in ((576, 1536), (1536, 576), (576, 64), (64, 1536)):
            x, matrix = torch.randn(rows, width_in), torch.randn(width_in, width_out)
            transposed = matrix.T.contiguous()
            operations = 2e-9 * rows * width_in * width_out
            plain = median_seconds(lambda x=x, m=matrix: x @ m)  # type: ignore[misc]
            fast = median_seconds(
                lambda x=x, t=transposed: onednn(x, t, None, "none", [], "")  # type: ignore[misc]
            )
            print(
                f"{f'{rows} x {width_in} x {width_out}':>18}    {operations / plain:12.0f}    "
                f"{operations / fast:6.0f}"
            )


if __name__ == "__main__":
    main()
