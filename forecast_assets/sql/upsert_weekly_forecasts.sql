INSERT INTO weekly_forecasts AS old (store, dept, week, forecast, p10, p50, p90, model_version)
SELECT store, dept, week, forecast, p10, p50, p90, model_version
FROM staged_forecasts
ON CONFLICT (store, dept, week) DO UPDATE
SET forecast      = excluded.forecast,
    p10           = excluded.p10,
    p50           = excluded.p50,
    p90           = excluded.p90,
    model_version = excluded.model_version,
    created_at    = now()
WHERE (old.forecast, old.p10, old.p50, old.p90, old.model_version)
    IS DISTINCT FROM (excluded.forecast, excluded.p10, excluded.p50, excluded.p90, excluded.model_version)
