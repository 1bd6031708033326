SELECT count(*)
FROM sales_features
WHERE weekly_sales IS NOT NULL
