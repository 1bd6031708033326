SELECT table_name, fingerprint
FROM feature_table_versions
WHERE table_name IN ('sales_features', 'store_features')
ORDER BY table_name
