"""Which records were made here, and which only imports brought: imports are never reused."""

from __future__ import annotations

from collections.abc import Sequence

from ..duck.connection import Connection


def imported_ids(things: str) -> str:
    """A query of the ids of the records of a table that only imports brought."""
    return f"SELECT id FROM imported WHERE things = '{things}'"


def is_local(connection: Connection, run_id: str | None) -> bool:
    """Whether what is added to a run was made here. None: no run, as for a benchmark."""
    row = connection.execute("SELECT origin FROM runs WHERE id = ?", [run_id]).fetchone()
    return row is None or row[0] is None


def mark_origin(
    connection: Connection, things: str, ids: Sequence[str], number: int | None, *, local: bool
) -> None:
    """Before records are added: list those that are imported, and no longer list local ones."""
    if local:
        connection.execute(
            "DELETE FROM imported WHERE things = ? AND number IS NOT DISTINCT FROM ? "
            "AND id IN (SELECT unnest(?::VARCHAR[]))",
            [things, number, list(ids)],
        )
        return
    in_circuit = "" if number is None or things == "circuits" else f"WHERE circuit = {int(number)}"
    connection.execute(
        f"INSERT INTO imported SELECT DISTINCT ?, id, ?::INTEGER FROM (SELECT unnest(?::VARCHAR[]) "
        f"AS id) AS new ANTI JOIN (SELECT id FROM {things} {in_circuit}) AS stored USING (id)",
        [things, number, list(ids)],
    )
