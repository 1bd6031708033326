SELECT table_name, data_version
FROM feature_table_versions
ORDER BY table_name
