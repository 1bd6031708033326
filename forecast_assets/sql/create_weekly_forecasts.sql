CREATE TABLE IF NOT EXISTS weekly_forecasts (
    store         bigint           NOT NULL,
    dept          bigint           NOT NULL,
    week          date             NOT NULL,
    forecast      double precision NOT NULL,
    model_version text             NOT NULL,
    created_at    timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (store, dept, week)
);
ALTER TABLE weekly_forecasts
    ADD COLUMN IF NOT EXISTS p10 double precision,
    ADD COLUMN IF NOT EXISTS p50 double precision,
    ADD COLUMN IF NOT EXISTS p90 double precision;
COMMENT ON TABLE weekly_forecasts IS 'The forecast of each store and department, in dollars, for each week that was forecast; of the sales, 10, 50 and 90 % are expected below p10, p50 and p90'
