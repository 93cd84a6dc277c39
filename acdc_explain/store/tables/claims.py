"""The tested claims of a run, and what they explain."""

from __future__ import annotations

from typing import Any, TypedDict

from ...records.claim import ClaimResult, ComponentResult, Step
from ..duck.connection import Connection
from . import codec
from .rows import append, delete_rows, number_of, read_records, row_of


class Tested(TypedDict):
    """The fields of a run that claims fill."""

    claims: list[ClaimResult]
    components: list[ComponentResult]
    algorithm: list[Step]


def add_claims(connection: Connection, run_id: str, question: str, tested: Tested) -> None:
    """Replace a run's tested claims and what they explain.

    `question`: what was tested, for `find_claims`; empty for what another store has tested.
    """
    number = number_of(connection, "runs", run_id)
    for name, kind in _PARTS.items():
        rows = [row_of(kind, record) for record in tested[name]]  # type: ignore[literal-required]
        delete_rows(connection, kind.table, "run = ?", [number])
        of_run = {"run": number, "question": question}
        append(
            connection, kind.table, [{**row, **of_run, "place": i} for i, row in enumerate(rows)]
        )


_PARTS: dict[str, codec.Codec[Any]] = {
    "claims": codec.CLAIM,
    "components": codec.COMPONENT,
    "algorithm": codec.STEP,
}


def read_claims(connection: Connection, run: int) -> Tested:
    """The tested claims of a run, by its number, and what they explain."""
    in_order = "WHERE run = ? ORDER BY place"
    return {
        "claims": read_records(connection, codec.CLAIM, in_order, [run]),
        "components": read_records(connection, codec.COMPONENT, in_order, [run]),
        "algorithm": read_records(connection, codec.STEP, in_order, [run]),
    }


def find_claims(connection: Connection, question: str) -> Tested | None:
    """What a run of this store found when it tested the same; None if there is none."""
    row = connection.execute(
        "SELECT min(run) FROM components WHERE question = ? "
        "AND run IN (SELECT number FROM runs WHERE origin IS NULL)",
        [question],
    ).fetchone()
    return None if row is None or row[0] is None else read_claims(connection, row[0])
