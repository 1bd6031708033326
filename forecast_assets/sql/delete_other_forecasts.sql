DELETE FROM weekly_forecasts old
WHERE old.week >= $1
  AND NOT EXISTS (
      SELECT FROM staged_forecasts new
      WHERE new.store = old.store AND new.dept = old.dept AND new.week = old.week
  )
