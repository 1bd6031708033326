SELECT event_timestamp, weekly_sales
FROM sales_features
WHERE store = %(store)s AND dept = %(dept)s AND weekly_sales IS NOT NULL
ORDER BY event_timestamp DESC
LIMIT 60
