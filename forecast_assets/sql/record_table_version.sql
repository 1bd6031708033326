INSERT INTO feature_table_versions (table_name, data_version, fingerprint, row_count, run_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (table_name) DO UPDATE
SET data_version = excluded.data_version,
    fingerprint  = excluded.fingerprint,
    row_count    = excluded.row_count,
    published_at = now(),
    run_id       = excluded.run_id;
