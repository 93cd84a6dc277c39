"""The tables of a store, and the steps from one version of them to the next.

Each kind of record has a table. `standings` (what each run says of each node), `fingerprints` and
`enrichments` are derived from them, for searches.
"""

from __future__ import annotations


def _numbered(table: str, column: str, parent: str, link: str) -> str:
    """SQL that replaces a table's key by the number of the row of `parent` that a row belongs to.

    The rows of a run are stored together and are found by this number without reading others. An
    index over millions of random ids would be rewritten in large part with every run: with 10,000
    runs, adding one took four times as long as with 100.
    """
    return f"""
    CREATE TABLE {table}_new AS SELECT {table}.*, parent.number AS {column}
        FROM {table} LEFT JOIN {parent} AS parent ON parent.id = {table}.{link};
    DROP TABLE {table};
    ALTER TABLE {table}_new RENAME TO {table};
    """


def _key(node: str) -> str:
    """SQL for `keys.node_key`: the key of a node, by its name and the number of `parent`."""
    layer = f"CAST(regexp_extract({node}, '^[am]([0-9]+)', 1) AS BIGINT)"
    head = f"regexp_extract({node}, '[.]h([0-9]+)', 1)"
    return f"""parent.number::BIGINT * 4294967296 + CASE split_part({node}, '@', 1)
        WHEN 'input' THEN 0 WHEN 'logits' THEN 2147483647
        ELSE ({layer} + 1) * 4096 + CASE WHEN starts_with({node}, 'm') THEN 4095
            WHEN {head} = '' THEN 0 ELSE CAST({head} AS BIGINT) + 1 END END"""


_OF_LABELS = "(SELECT id, circuit AS number FROM labels)"
_OF_VERDICTS = "(SELECT id, circuit AS number FROM verdicts)"
_NUMBERS = f"""
    ALTER TABLE circuits ADD COLUMN n_layers INTEGER;
    ALTER TABLE circuits ADD COLUMN number INTEGER;
    UPDATE circuits SET number = n.number FROM
        (SELECT id, row_number() OVER (ORDER BY id) - 1 AS number FROM circuits) AS n
        WHERE n.id = circuits.id;
    ALTER TABLE runs ADD COLUMN number INTEGER;
    UPDATE runs SET number = n.number FROM
        (SELECT id, row_number() OVER (ORDER BY created_at, id) - 1 AS number FROM runs) AS n
        WHERE n.id = runs.id;
    CREATE TABLE nodes_new AS SELECT nodes.*, {_key("node")} AS key
        FROM nodes JOIN circuits AS parent ON parent.id = nodes.circuit_id ORDER BY parent.number;
    DROP TABLE nodes;
    ALTER TABLE nodes_new RENAME TO nodes;
    CREATE TABLE edges_new AS SELECT edges.*, {_key("src")} AS src_key, {_key("dst")} AS dst_key
        FROM edges JOIN circuits AS parent ON parent.id = edges.circuit_id
        ORDER BY parent.number, place;
    DROP TABLE edges;
    ALTER TABLE edges_new RENAME TO edges;
    {_numbered("evidence", "circuit", "circuits", "circuit_id")}
    {_numbered("labels", "circuit", "circuits", "circuit_id")}
    {_numbered("labelings", "circuit", "circuits", "circuit_id")}
    {_numbered("verdicts", "circuit", _OF_LABELS, "label_id")}
    {_numbered("judgings", "circuit", _OF_VERDICTS, "verdict_id")}
    {_numbered("motifs", "run", "runs", "run_id")}
    {
    "".join(
        _numbered(f"run_{things}", "run", "runs", "run_id")
        for things in ("evidence", "labels", "verdicts", "exchanges")
    )
}
    DROP INDEX exchanges_by_request;
    CREATE TABLE exchanges_new AS SELECT * FROM exchanges;
    DROP TABLE exchanges;
    ALTER TABLE exchanges_new RENAME TO exchanges;
    CREATE TABLE standings (
        run INTEGER, key BIGINT, node TEXT, kind TEXT, layer INTEGER, depth FLOAT, sign TINYINT,
        role TEXT, outcome TEXT, confidence DOUBLE, description TEXT);
    CREATE TABLE fingerprints (
        key BIGINT, node TEXT, kind TEXT, model_id TEXT, sign TINYINT, vector FLOAT[16]);
    CREATE TABLE enrichments (
        run INTEGER, pattern TEXT, found INTEGER, counts INTEGER[]);
    """

_FROM_BEFORE = "imported by an earlier version"
_IMPORTED = "SELECT number FROM runs WHERE origin IS NOT NULL"
_TRUST = f"""
    CREATE TABLE verdicts_new AS SELECT id, label_id, judge, outcome, score, chance, percentile, n,
        reason, NULL::TEXT AS measure, NULL::TEXT AS unit, NULL::DOUBLE AS low,
        NULL::DOUBLE AS high, circuit FROM verdicts;
    DROP TABLE verdicts;
    ALTER TABLE verdicts_new RENAME TO verdicts;
    ALTER TABLE runs ADD COLUMN origin TEXT;
    ALTER TABLE runs ADD COLUMN name TEXT;
    ALTER TABLE runs ADD COLUMN note TEXT;
    ALTER TABLE runs ADD COLUMN behavior TEXT;
    CREATE TABLE imported (things TEXT, id TEXT, number INTEGER);
    UPDATE runs SET origin = '{_FROM_BEFORE}' WHERE task_id NOT IN (SELECT id FROM tasks)
        OR number IN (SELECT run FROM run_labels WHERE label_id NOT IN
            (SELECT unnest(from_json(label_ids, '["VARCHAR"]')) FROM labelings))
        OR number IN (SELECT run FROM run_verdicts WHERE verdict_id NOT IN
            (SELECT verdict_id FROM judgings));
    INSERT INTO imported SELECT 'circuits', circuits.id, number FROM circuits
        SEMI JOIN (SELECT * FROM runs WHERE origin IS NOT NULL) AS r ON r.circuit_id = circuits.id
        ANTI JOIN (SELECT * FROM runs WHERE origin IS NULL) AS r ON r.circuit_id = circuits.id;
    INSERT INTO imported SELECT 'evidence', id, circuit FROM evidence WHERE
        id IN (SELECT evidence_id FROM run_evidence WHERE run IN ({_IMPORTED})) AND
        id NOT IN (SELECT evidence_id FROM run_evidence WHERE run NOT IN ({_IMPORTED}));
    INSERT INTO imported SELECT 'exchanges', id, NULL FROM exchanges WHERE
        id IN (SELECT exchange_id FROM run_exchanges WHERE run IN ({_IMPORTED})) AND
        id NOT IN (SELECT exchange_id FROM run_exchanges WHERE run NOT IN ({_IMPORTED}));
    DROP TABLE enrichments;
    CREATE TABLE enrichments (
        run INTEGER, pattern TEXT, found HUGEINT, counts HUGEINT[]);
    """
"""Verdicts get their measure; runs get their origin, name, note and the model's behavior.

`imported` lists the records that only imports brought, by table and id. Older stores do not say
which runs were imported: they are those without prompts, labelings or judgings, which every local
run has.
"""

_CLAIMS = """
    CREATE TABLE claims (
        run INTEGER, question TEXT, place INTEGER, node TEXT, claim TEXT, arguments TEXT, text TEXT,
        topic TEXT, outcome TEXT, value DOUBLE, low DOUBLE, high DOUBLE, chance DOUBLE,
        percentile DOUBLE, unit TEXT, n BIGINT, specific BOOLEAN, votes TEXT, reason TEXT);
    CREATE TABLE components (
        run INTEGER, question TEXT, place INTEGER, node TEXT, effect DOUBLE, low DOUBLE,
        high DOUBLE, idle BOOLEAN, explained BOOLEAN);
    """
"""Claims about components with the outcomes of their tests, and what they explain: of each run, in
their order. `question` says what was tested, so that a later run need not test it again."""

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
    _NUMBERS,
    _TRUST,
    _CLAIMS,
    """
    ALTER TABLE claims ADD COLUMN also TEXT DEFAULT '{}';
    CREATE TABLE steps (run INTEGER, question TEXT, place INTEGER, text TEXT, claims TEXT);
    """,
    "ALTER TABLE labels ADD COLUMN claims TEXT DEFAULT '[]';",
)
VERSION = len(MIGRATIONS)
