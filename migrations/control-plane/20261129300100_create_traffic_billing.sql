-- What a plan's traffic above the included one costs: for each started 100 GiB of a month. Without a row nothing is
-- charged. Owner: catalog.
CREATE TABLE traffic_prices (
    plan_code TEXT NOT NULL REFERENCES plans (code),
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL CHECK (amount_minor > 0),
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (plan_code, currency)
);

-- What was agreed about a server's traffic, at the sale and at each change of plan. Owner: billing.
CREATE TABLE traffic_terms (
    instance_id TEXT NOT NULL,
    since BIGINT NOT NULL,
    order_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    -- 0: nothing was said, nothing is charged.
    included_gib BIGINT NOT NULL,
    -- For each started 100 GiB; null: not charged.
    unit_minor BIGINT,
    currency TEXT NOT NULL,
    PRIMARY KEY (instance_id, since)
);

CREATE INDEX traffic_terms_by_account ON traffic_terms (account_id);

-- The ledger: one row for each server and month, written when the month is closed and never again for that month.
-- Owner: billing.
CREATE TABLE traffic_bills (
    instance_id TEXT NOT NULL,
    -- 202611, UTC.
    month BIGINT NOT NULL,
    order_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    counted BIGINT NOT NULL,
    included_gib BIGINT NOT NULL,
    -- Started 100 GiB above what is included.
    units BIGINT NOT NULL,
    unit_minor BIGINT NOT NULL,
    amount_minor BIGINT NOT NULL,
    -- free, wanted, posted, invoiced or waived.
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    invoice_attempt BIGINT NOT NULL,
    -- Stripe's invoice item, and the invoice it went to.
    item_id TEXT UNIQUE,
    invoice_id TEXT,
    closed_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (instance_id, month)
);

CREATE INDEX traffic_bills_by_state ON traffic_bills (state, updated_at);
CREATE INDEX traffic_bills_by_account ON traffic_bills (account_id, month);
