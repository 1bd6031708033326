CREATE TABLE IF NOT EXISTS backtest_forecasts (
    origin       date             NOT NULL,
    store        bigint           NOT NULL,
    dept         bigint           NOT NULL,
    week         date             NOT NULL,
    weeks_ahead  integer          NOT NULL,
    forecast     double precision NOT NULL,
    weekly_sales double precision NOT NULL,
    is_holiday   boolean          NOT NULL,
    PRIMARY KEY (origin, store, dept, week)
);
COMMENT ON TABLE backtest_forecasts IS 'What would have been forecast at the end of each origin week, beside what was sold, in dollars'
