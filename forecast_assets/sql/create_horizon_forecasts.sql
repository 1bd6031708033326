CREATE TABLE IF NOT EXISTS horizon_forecasts (
    origin        date             NOT NULL,
    store         bigint           NOT NULL,
    dept          bigint           NOT NULL,
    week          date             NOT NULL,
    weeks_ahead   integer          NOT NULL,
    forecast      double precision NOT NULL,
    model_version text             NOT NULL,
    PRIMARY KEY (origin, store, dept, week)
);
COMMENT ON TABLE horizon_forecasts IS 'Forecasts in dollars of several weeks after the last sold one, origin, each building on those before it'
