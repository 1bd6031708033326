CREATE TABLE IF NOT EXISTS ingest_ledger (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file           text        NOT NULL,
    content_hash   text        NOT NULL,
    row_count      bigint,
    first_week     date,
    last_week      date,
    decision       text        NOT NULL CHECK (decision IN ('accepted', 'refused')),
    reason         text        CHECK ((reason IS NULL) = (decision = 'accepted')),
    quarantined_as text,
    decided_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id         text        NOT NULL
);
COMMENT ON TABLE ingest_ledger IS 'What was decided on each file that arrived; the same again is not entered twice in a row';

CREATE TABLE IF NOT EXISTS feature_table_versions (
    table_name   text        PRIMARY KEY,
    data_version text        NOT NULL,
    fingerprint  bytea       NOT NULL,
    row_count    bigint      NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    run_id       text        NOT NULL
);
COMMENT ON TABLE feature_table_versions IS 'The content hash of each published table, written in the transaction that published it';

CREATE TABLE IF NOT EXISTS sold_weeks (
    week date PRIMARY KEY
);
COMMENT ON TABLE sold_weeks IS 'Every week of which sales were ever accepted, also if the drop in use ends before it';

CREATE SCHEMA IF NOT EXISTS forecast_assets;
DO $$ BEGIN
-- CREATE OR REPLACE would wait for everyone who is reading the view.
IF to_regclass('forecast_assets.ingest_history') IS NULL THEN
    CREATE VIEW forecast_assets.ingest_history AS
    SELECT decided_at,
           file,
           decision,
           decision = 'accepted'
               AND id = max(id) FILTER (WHERE decision = 'accepted') OVER (PARTITION BY file) AS in_force,
           reason,
           row_count AS rows,
           first_week,
           last_week,
           quarantined_as,
           content_hash,
           run_id
    FROM ingest_ledger
    ORDER BY id DESC;
    COMMENT ON VIEW forecast_assets.ingest_history IS 'Every file that arrived, newest first: accepted or refused, and why';
END IF;
END $$;
