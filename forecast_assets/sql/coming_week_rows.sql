SELECT store, dept, date
FROM sales_features
WHERE weekly_sales IS NULL
ORDER BY store, dept
