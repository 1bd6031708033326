INSERT INTO ingest_ledger (file, content_hash, row_count, first_week, last_week, run_id)
VALUES (%(file)s, %(content_hash)s, %(row_count)s, %(first_week)s, %(last_week)s, %(run_id)s)
ON CONFLICT (file, content_hash) DO NOTHING;
