-- Payments of an order on a second page: never kept, given back by themselves. Owner: billing.
CREATE TABLE billing_surplus (
    -- The page it was paid on.
    session_id TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    subscription_id TEXT,
    invoice_id TEXT,
    -- wanted, pending, succeeded or failed, as of a refund.
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    refund_id TEXT UNIQUE,
    amount_minor BIGINT,
    currency TEXT,
    found_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_surplus_by_order ON billing_surplus (order_id);
