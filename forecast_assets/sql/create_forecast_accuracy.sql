CREATE TABLE IF NOT EXISTS forecast_accuracy (
    scope    text             NOT NULL,
    key      text             NOT NULL,
    rows     bigint           NOT NULL,
    wmae     double precision NOT NULL,
    mae      double precision NOT NULL,
    rmse     double precision NOT NULL,
    wape     double precision NOT NULL,
    mape     double precision NOT NULL,
    bias     double precision NOT NULL,
    coverage double precision NOT NULL,
    PRIMARY KEY (scope, key)
);
COMMENT ON TABLE forecast_accuracy IS 'How good past forecasts were: over all of them, and by week, store and department'
