SELECT forecast.store, forecast.dept, forecast.week,
       forecast.forecast, forecast.p10, forecast.p90, forecast.model_version,
       sold.weekly_sales, sold.is_holiday,
       sold.sales_lag_1, sold.sales_lag_52,
       sold.sales_rolling_mean_4, sold.sales_rolling_mean_12, sold.sales_rolling_mean_4_lag_52
FROM weekly_forecasts_history forecast
JOIN sales_features sold
  ON (sold.store, sold.dept, sold.date) = (forecast.store, forecast.dept, forecast.week)
WHERE sold.weekly_sales IS NOT NULL
ORDER BY forecast.week, forecast.store, forecast.dept
