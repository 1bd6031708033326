INSERT INTO ingest_ledger (
    file, content_hash, row_count, first_week, last_week, decision, reason, quarantined_as, run_id
)
SELECT %(file)s, %(content_hash)s, %(row_count)s::bigint, %(first_week)s::date, %(last_week)s::date,
       %(decision)s, %(reason)s, %(quarantined_as)s, %(run_id)s
WHERE (%(content_hash)s::text, coalesce(%(reason)s::text, '')) IS DISTINCT FROM (
    SELECT (content_hash, coalesce(reason, ''))
    FROM ingest_ledger
    WHERE file = %(file)s AND decision = %(decision)s
    ORDER BY id DESC
    LIMIT 1
);
