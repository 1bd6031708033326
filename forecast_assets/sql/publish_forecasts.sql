DELETE FROM {table} WHERE {by} > $1;
DELETE FROM {table} WHERE {by} < $1 AND {by} = (SELECT max({by}) FROM {table});
INSERT INTO {table}
SELECT * FROM {history}
WHERE {by} < $1 AND {by} > coalesce((SELECT max({by}) FROM {table}), '-infinity');
DELETE FROM {table} old
USING (SELECT {columns} FROM {table} WHERE {by} = $1 EXCEPT SELECT {columns} FROM staged_forecasts) other
WHERE (old.{by}, old.store, old.dept, old.week) = (other.{by}, other.store, other.dept, other.week);
INSERT INTO {table} ({columns})
SELECT {columns} FROM staged_forecasts EXCEPT SELECT {columns} FROM {table} WHERE {by} = $1
