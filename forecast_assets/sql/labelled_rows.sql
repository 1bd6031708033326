SELECT store, dept, event_timestamp
FROM sales_features
WHERE weekly_sales IS NOT NULL
ORDER BY event_timestamp, store, dept
