-- What a person gave: a part of a payment back, or credit. The reference makes it happen once. Owner: billing.
CREATE TABLE billing_gifts (
    order_id TEXT NOT NULL,
    -- refund or credit.
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    -- Of a refund: the invoice whose payment goes back in part.
    invoice_id TEXT,
    amount_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    reason TEXT NOT NULL,
    made_by TEXT NOT NULL,
    -- wanted, done or refused.
    state TEXT NOT NULL,
    made_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (order_id, kind, reference)
);

CREATE INDEX billing_gifts_by_account ON billing_gifts (account_id, made_at);
CREATE INDEX billing_gifts_by_state ON billing_gifts (state, updated_at);

-- What of an event is left when its bytes are thrown away, and with what it came.
ALTER TABLE stripe_events ADD COLUMN raw_hash TEXT;
ALTER TABLE stripe_events ADD COLUMN signature TEXT;
