CREATE TABLE IF NOT EXISTS weekly_forecasts (
    store         bigint           NOT NULL,
    dept          bigint           NOT NULL,
    week          date             NOT NULL,
    forecast      double precision NOT NULL,
    model_version text             NOT NULL,
    created_at    timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (store, dept, week)
);
COMMENT ON TABLE weekly_forecasts IS 'The forecast of each store and department, in dollars, for each week that was forecast'
