-- Money as Stripe sees it, and what we asked Stripe for. Owner: billing.
-- Every genuine webhook delivery and every polled event, before anything is judged.
CREATE TABLE stripe_events (
    id TEXT NOT NULL PRIMARY KEY,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    object_id TEXT,
    object_type TEXT,
    api_version TEXT,
    livemode INTEGER,
    created BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    raw BYTEA NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    done_at BIGINT
);

CREATE INDEX stripe_events_by_object ON stripe_events (object_id, state);

-- The local copy: each object as it was when last read.
CREATE TABLE stripe_objects (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    fetched_at BIGINT NOT NULL,
    hash TEXT NOT NULL,
    json TEXT NOT NULL
);

-- A POST is written here, with its key and its exact bytes, before it is sent.
CREATE TABLE stripe_outbox (
    key TEXT NOT NULL PRIMARY KEY,
    purpose TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    params_hash TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    response_id TEXT,
    error TEXT,
    created_at BIGINT NOT NULL,
    done_at BIGINT
);

CREATE INDEX stripe_outbox_by_subject ON stripe_outbox (subject_id);

CREATE TABLE stripe_cursors (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE billing_customers (
    account_id TEXT NOT NULL PRIMARY KEY,
    stripe_id TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- What an order has to be paid with; one row per order, one session at a time.
CREATE TABLE billing_checkouts (
    order_id TEXT NOT NULL PRIMARY KEY,
    instance_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    email TEXT NOT NULL,
    description TEXT NOT NULL,
    price_id TEXT NOT NULL,
    stripe_price_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    session_id TEXT UNIQUE,
    url TEXT,
    expires_at BIGINT,
    customer_id TEXT,
    subscription_id TEXT,
    settled_at BIGINT,
    problem TEXT,
    checked_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_checkouts_by_state ON billing_checkouts (state, created_at);

CREATE TABLE billing_subscriptions (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL UNIQUE,
    instance_id TEXT NOT NULL UNIQUE,
    account_id TEXT NOT NULL,
    status TEXT NOT NULL,
    stripe_price_id TEXT,
    item_id TEXT,
    latest_invoice_id TEXT,
    period_start BIGINT,
    period_end BIGINT,
    cancel_at BIGINT,
    canceled_at BIGINT,
    updated_at BIGINT NOT NULL
);

CREATE TABLE billing_invoices (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    subscription_id TEXT,
    account_id TEXT NOT NULL,
    number TEXT,
    status TEXT NOT NULL,
    currency TEXT NOT NULL,
    total_minor BIGINT NOT NULL,
    hosted_url TEXT,
    pdf_url TEXT,
    issued_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_invoices_by_account ON billing_invoices (account_id, issued_at);

CREATE TABLE billing_refunds (
    order_id TEXT NOT NULL PRIMARY KEY,
    stripe_id TEXT UNIQUE,
    attempt BIGINT NOT NULL,
    state TEXT NOT NULL,
    amount_minor BIGINT,
    currency TEXT,
    requested_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
