"""The tables of an open store as Parquet files."""

from __future__ import annotations

import os
from pathlib import Path

from ...output.files import check_output
from ...records.run.header import RunHeader
from ..duck.connection import Connection
from ..duck.engine import quoted
from .keys import keys_of
from .rows import IDENTITY, number_of


def write_tables(
    connection: Connection, folder: Path, store: Path, header: RunHeader | None
) -> dict[str, int]:
    """Write every table, or the rows of one run, each to a file; how many rows each has.

    Raises UserError for a file that is a store.
    """
    if header is None:
        names = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
        conditions = dict.fromkeys(names, "TRUE")
    else:
        conditions = rows_of_run(connection, header)
    counts = {}
    for table, condition in conditions.items():
        file = check_output(folder / f"{table}.parquet", store)
        copied = connection.execute(
            f"COPY (SELECT * FROM {table} WHERE {condition}) TO "
            f"{quoted(os.path.realpath(file))} (FORMAT parquet)"
        )
        counts[table] = copied.fetchall()[0][0]
    return counts


def rows_of_run(connection: Connection, header: RunHeader) -> dict[str, str]:
    """For each table with rows of a run, the condition that selects them."""
    run = number_of(connection, "runs", header.id)
    run_id = f"SELECT id FROM runs WHERE number = {run}"
    conditions = {
        **dict.fromkeys(("failures", "summaries"), f"run_id = ({run_id})"),
        **dict.fromkeys(("motifs", "standings", "enrichments"), f"run = {run}"),
        "runs": f"number = {run}",
    }
    for things in ("evidence", "labels", "verdicts", "exchanges"):
        link = f"run_{things}"
        conditions[link] = f"run = {run}"
        conditions[things] = f"id IN (SELECT {IDENTITY[link][0]} FROM {link} WHERE run = {run})"
    verdicts, labels = conditions["verdicts"], conditions["labels"]
    conditions["judgings"] = f"verdict_id IN (SELECT id FROM verdicts WHERE {verdicts})"
    conditions["labelings"] = (
        "id IN (SELECT id FROM (SELECT id, unnest(from_json(label_ids, '[\"VARCHAR\"]')) AS label "
        f"FROM labelings) WHERE label IN (SELECT id FROM labels WHERE {labels}))"
    )
    conditions["tasks"] = f"id IN (SELECT task_id FROM runs WHERE number = {run})"
    if header.circuit_id is not None:
        circuit = number_of(connection, "circuits", header.circuit_id)
        low, high = keys_of(circuit)
        conditions["circuits"] = f"number = {circuit}"
        for table, key in (("nodes", "key"), ("edges", "src_key"), ("fingerprints", "key")):
            conditions[table] = f"{key} >= {low} AND {key} < {high}"
    return conditions
