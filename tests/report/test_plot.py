"""Pictures are written, and say why if they cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from acdc_explain.errors import UserError
from acdc_explain.report.plot import plot_sweep

from ..samples import make_run


def test_sweep(tmp_path):
    circuit = make_run().circuit
    assert circuit is not None
    nothing = replace(circuit, edges=())
    flat = replace(circuit, faithfulness=replace(circuit.faithfulness, random=None))
    plot_sweep([circuit, flat, nothing], "ioi on mini", tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", ["none/sweep.png", "sweep.xyz"])
def test_a_picture_that_cannot_be_written(file, tmp_path):
    circuit = make_run().circuit
    assert circuit is not None
    with pytest.raises(UserError, match="cannot be written as a picture"):
        plot_sweep([circuit], "ioi on mini", tmp_path / file)


def test_no_circuit_to_draw(tmp_path):
    circuit = make_run().circuit
    assert circuit is not None
    with pytest.raises(UserError, match="kept an edge"):
        plot_sweep([replace(circuit, edges=())], "ioi on mini", tmp_path / "sweep.png")
