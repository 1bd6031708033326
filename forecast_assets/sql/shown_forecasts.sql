SELECT store, dept, week, forecast, p10, p50, p90, model_version
FROM weekly_forecasts
WHERE week >= $1
ORDER BY week, store, dept
