"""Adding runs: the header of a new one, or a whole run that was exported or made elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...errors import UserError
from ...records.run.header import RunHeader
from ...records.run.run import Run
from ..duck.connection import Connection
from ..search.index import index_evidence, index_run
from ..tables import write
from ..tables.claims import Tested, add_claims
from ..tables.read import read_headers
from .names import check_free, is_free
from .remove import remove_run


def write_header(connection: Connection, path: Path, header: RunHeader) -> None:
    """Add a run, or update its status and circuit.

    A local run replaces an imported one with its id, never the other way round. Raises UserError.
    """
    for stored in read_headers(connection, "WHERE id = $id", {"id": header.id}):
        if stored.origin is not None and header.origin is None:
            remove_run(connection, stored, task=False)
        elif stored.origin is None and header.origin is not None:
            raise UserError(
                f"{path} holds a run {header.id} of its own, asked the same; go on from that one."
            )
    write.add_header(connection, header)
    check_free(connection, path, header.id, header.name)
    index_run(connection, header.id)


def add_run(connection: Connection, path: Path, run: Run) -> bool:
    """Add a whole run. Returns False if it is stored already.

    Raises UserError if a run of the same id holds something else.
    """
    for stored in read_headers(connection, "WHERE id = $id", {"id": run.id}):
        if not _replaces(path, stored, run.header):
            return False
        if stored.origin is not None:
            remove_run(connection, stored, task=False)
    local = run.header.origin is None
    if not local and not is_free(connection, path, run.id, run.header.name):
        run = replace(run, header=replace(run.header, name=None))
    write.add_header(connection, run.header)
    check_free(connection, path, run.id, run.header.name)
    write.add_behavior(connection, run.id, run.behavior)
    if run.task is not None:
        write.add_task(connection, run.task)
    if run.circuit is not None:
        write.add_circuit(connection, run.circuit, local=local)
    write.add_evidence_and_labels(connection, run.id, run)
    write.add_verdicts(connection, run.id, run.verdicts)
    write.add_motifs(connection, run.id, run.motifs)
    tested: Tested = {
        "claims": list(run.claims),
        "components": list(run.components),
        "algorithm": list(run.algorithm),
    }
    add_claims(connection, run.id, "", tested)
    if run.summary is not None:
        write.add_summary(connection, run.summary)
    index_evidence(connection, run.evidence)
    index_run(connection, run.id)
    return True


def _replaces(path: Path, stored: RunHeader, new: RunHeader) -> bool:
    """Whether a run takes the place of the stored one with its id, or completes it.

    An import never changes a local run. Raises UserError where one of the two must be wrong.
    """
    if stored.origin is not None and new.origin is None:
        return True
    other_circuit = None not in (stored.circuit_id, new.circuit_id) and (
        stored.circuit_id != new.circuit_id
    )
    if other_circuit or stored.settings != new.settings:
        raise UserError(f"{path} holds another run with the id {new.id}; nothing was imported.")
    if stored.origin is None and new.origin is not None:
        return False
    return stored.status != "done" and new.status == "done"
