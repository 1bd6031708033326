INSERT INTO weekly_forecasts AS old (store, dept, week, forecast, model_version)
SELECT store, dept, week, forecast, model_version
FROM staged_forecasts
ON CONFLICT (store, dept, week) DO UPDATE
SET forecast      = excluded.forecast,
    model_version = excluded.model_version,
    created_at    = now()
WHERE (old.forecast, old.model_version) IS DISTINCT FROM (excluded.forecast, excluded.model_version)
