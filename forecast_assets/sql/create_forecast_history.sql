CREATE TABLE IF NOT EXISTS {history} AS TABLE {table};
CREATE INDEX IF NOT EXISTS {index} ON {history} ({by});
COMMENT ON TABLE {history} IS 'Each forecast as it was last made before any of its weeks had been sold; no drop, old or new, changes it afterwards'
