DELETE FROM {history}
WHERE {by} = $1 AND NOT EXISTS (SELECT FROM staged_forecasts JOIN sold_weeks USING (week));
INSERT INTO {history}
SELECT * FROM {table}
WHERE {by} = $1 AND NOT EXISTS (SELECT FROM staged_forecasts JOIN sold_weeks USING (week))
