CREATE TABLE IF NOT EXISTS ingest_ledger (
    file         text        NOT NULL,
    content_hash text        NOT NULL,
    row_count    bigint      NOT NULL,
    first_week   date,
    last_week    date,
    accepted_at  timestamptz NOT NULL DEFAULT now(),
    run_id       text        NOT NULL,
    PRIMARY KEY (file, content_hash)
);
COMMENT ON TABLE ingest_ledger IS 'Each accepted file of a drop, once per content';

CREATE TABLE IF NOT EXISTS feature_table_versions (
    table_name   text        PRIMARY KEY,
    data_version text        NOT NULL,
    fingerprint  bytea       NOT NULL,
    row_count    bigint      NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    run_id       text        NOT NULL
);
COMMENT ON TABLE feature_table_versions IS 'The content hash of each published table, written in the transaction that published it';
