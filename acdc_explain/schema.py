"""The tables of a store, and the steps from one version of them to the next."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE tasks (id TEXT PRIMARY KEY, name TEXT, body TEXT);
    CREATE TABLE circuits (
        id TEXT PRIMARY KEY, task_id TEXT, model_id TEXT, discoverer TEXT, settings TEXT,
        n_edges_total BIGINT, n_edges_tested BIGINT,
        metric TEXT, clean DOUBLE, circuit DOUBLE, corrupt DOUBLE,
        seconds DOUBLE, forward_seconds DOUBLE);
    CREATE TABLE nodes (
        circuit_id TEXT, node TEXT, kind TEXT, layer INTEGER, head INTEGER,
        PRIMARY KEY (circuit_id, node));
    CREATE TABLE edges (
        circuit_id TEXT, place INTEGER, src TEXT, dst TEXT, port TEXT, effect DOUBLE,
        PRIMARY KEY (circuit_id, place));
    CREATE TABLE evidence (
        id TEXT PRIMARY KEY, circuit_id TEXT, node TEXT, collector TEXT, settings TEXT, facts TEXT);
    CREATE TABLE exchanges (
        id TEXT PRIMARY KEY, template TEXT, llm TEXT, prompt TEXT, reply TEXT, error TEXT,
        tokens_in BIGINT, tokens_out BIGINT, seconds DOUBLE);
    CREATE TABLE labels (
        id TEXT PRIMARY KEY, circuit_id TEXT, node TEXT, labeler TEXT, role TEXT, positions TEXT,
        description TEXT, confidence DOUBLE, evidence_ids TEXT, exchange_id TEXT);
    CREATE TABLE labelings (
        id TEXT PRIMARY KEY, circuit_id TEXT, node TEXT, labeler TEXT, label_ids TEXT);
    CREATE TABLE verdicts (
        id TEXT PRIMARY KEY, label_id TEXT, judge TEXT, outcome TEXT,
        score DOUBLE, chance DOUBLE, percentile DOUBLE, n BIGINT, reason TEXT);
    CREATE TABLE judgings (id TEXT PRIMARY KEY, verdict_id TEXT);
    CREATE TABLE motifs (
        id TEXT PRIMARY KEY, pattern TEXT, run_id TEXT, circuit_id TEXT, nodes TEXT);
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, task TEXT, task_id TEXT, model TEXT, model_id TEXT, circuit_id TEXT,
        status TEXT, created_at TIMESTAMP, seed BIGINT, settings TEXT, versions TEXT);
    CREATE TABLE run_evidence (run_id TEXT, evidence_id TEXT, PRIMARY KEY (run_id, evidence_id));
    CREATE TABLE run_labels (run_id TEXT, label_id TEXT, PRIMARY KEY (run_id, label_id));
    CREATE TABLE run_verdicts (run_id TEXT, verdict_id TEXT, PRIMARY KEY (run_id, verdict_id));
    CREATE TABLE run_exchanges (run_id TEXT, exchange_id TEXT, PRIMARY KEY (run_id, exchange_id));
    """,
    """
    ALTER TABLE circuits ADD COLUMN random DOUBLE;
    ALTER TABLE circuits ADD COLUMN alternatives TEXT DEFAULT '{}';
    ALTER TABLE edges ADD COLUMN src_place TEXT;
    ALTER TABLE edges ADD COLUMN dst_place TEXT;
    ALTER TABLE edges ADD COLUMN share DOUBLE;
    CREATE TABLE pages (book TEXT, page TEXT, content TEXT, PRIMARY KEY (book, page));
    """,
    """
    ALTER TABLE exchanges ADD COLUMN request_id TEXT;
    ALTER TABLE exchanges ADD COLUMN cost_usd DOUBLE;
    CREATE INDEX exchanges_by_request ON exchanges (request_id);
    ALTER TABLE labelings ADD COLUMN exchange_ids TEXT DEFAULT '[]';
    CREATE TABLE failures (
        run_id TEXT, node TEXT, labeler TEXT, reason TEXT, PRIMARY KEY (run_id, node));
    CREATE TABLE summaries (
        id TEXT PRIMARY KEY, run_id TEXT, labeler TEXT, sentences TEXT, exchange_id TEXT);
    """,
)
VERSION = len(MIGRATIONS)
