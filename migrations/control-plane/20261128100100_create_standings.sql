-- Whether a server is served, and what the copy of Stripe has to know to decide that. Owner: billing.
ALTER TABLE billing_subscriptions ADD COLUMN status_reason TEXT;
ALTER TABLE billing_subscriptions ADD COLUMN end_reason TEXT;
ALTER TABLE billing_subscriptions ADD COLUMN customer_id TEXT;
ALTER TABLE billing_subscriptions ADD COLUMN payment_method_id TEXT;
ALTER TABLE billing_subscriptions ADD COLUMN amount_minor BIGINT;
ALTER TABLE billing_subscriptions ADD COLUMN currency TEXT;
ALTER TABLE billing_subscriptions ADD COLUMN yearly INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_subscriptions ADD COLUMN collection_paused INTEGER NOT NULL DEFAULT 0;

ALTER TABLE billing_invoices ADD COLUMN due_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_invoices ADD COLUMN paid_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_invoices ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_invoices ADD COLUMN due_at BIGINT;
ALTER TABLE billing_invoices ADD COLUMN reason TEXT;

CREATE INDEX billing_invoices_by_subscription ON billing_invoices (subscription_id, status);

ALTER TABLE billing_customers ADD COLUMN balance_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_customers ADD COLUMN currency TEXT;
ALTER TABLE billing_customers ADD COLUMN payment_method_id TEXT;
ALTER TABLE billing_customers ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;

-- How often an event could not be processed, and when its bytes were thrown away.
ALTER TABLE stripe_events ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE stripe_events ADD COLUMN redacted_at BIGINT;

CREATE INDEX stripe_events_by_time ON stripe_events (received_at);

-- A customer's bank takes a payment back.
CREATE TABLE billing_disputes (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    invoice_id TEXT,
    -- Stripe's word.
    status TEXT NOT NULL,
    reason TEXT,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    answer_by BIGINT,
    opened_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_disputes_by_order ON billing_disputes (order_id);

-- Money that went back for an invoice, whoever sent it.
CREATE TABLE billing_returns (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    invoice_id TEXT NOT NULL,
    -- pending, succeeded or failed, as of a refund.
    state TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_returns_by_order ON billing_returns (order_id);

-- What is shown of a card. No number, no code: those never reach us.
CREATE TABLE billing_cards (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT,
    brand TEXT NOT NULL,
    last4 TEXT NOT NULL,
    exp_month BIGINT NOT NULL,
    exp_year BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- What the money says about a server now, and what comes next. One row per subscription that was paid.
CREATE TABLE billing_standings (
    order_id TEXT NOT NULL PRIMARY KEY,
    instance_id TEXT NOT NULL UNIQUE,
    account_id TEXT NOT NULL,
    -- run, suspend or end.
    stand TEXT NOT NULL,
    why TEXT NOT NULL,
    since BIGINT NOT NULL,
    next_step TEXT,
    next_at BIGINT,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_standings_by_stand ON billing_standings (stand, next_at);
CREATE INDEX billing_standings_by_account ON billing_standings (account_id);

-- Effects that happen once, each under the key of its cause.
CREATE TABLE billing_steps (
    cause_key TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    done_at BIGINT NOT NULL
);

CREATE INDEX billing_steps_by_order ON billing_steps (order_id);

-- An operator's "never suspend this".
CREATE TABLE billing_exemptions (
    instance_id TEXT NOT NULL PRIMARY KEY,
    reason TEXT NOT NULL,
    made_by TEXT NOT NULL,
    made_at BIGINT NOT NULL
);

-- Where the copy and Stripe did not agree when they were compared.
CREATE TABLE billing_differences (
    object_id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    what TEXT NOT NULL,
    found_at BIGINT NOT NULL,
    mended_at BIGINT
);
