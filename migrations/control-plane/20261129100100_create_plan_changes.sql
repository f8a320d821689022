-- Changes of what an account pays for a server: another plan, another interval. Owner: billing.
CREATE TABLE billing_changes (
    id TEXT NOT NULL PRIMARY KEY,
    order_id TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    -- now, period_end, or outside: made in Stripe's dashboard.
    way TEXT NOT NULL,
    state TEXT NOT NULL,
    -- The order's id while it is under way, so that an order has one change at a time.
    open_order TEXT UNIQUE,
    from_price TEXT NOT NULL,
    from_stripe_price TEXT NOT NULL,
    to_price TEXT NOT NULL,
    to_stripe_price TEXT NOT NULL,
    to_plan TEXT NOT NULL,
    -- What that plan gave a server when it was chosen, as JSON; later changes of the catalogue do not touch it.
    to_size TEXT NOT NULL,
    -- What was shown before it was confirmed, as JSON; nothing for one made outside.
    quote TEXT,
    -- Unix seconds: the moment that preview and change are computed for.
    proration_date BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    -- The end of the period with which it is due.
    due_at BIGINT,
    -- Until when its invoice can be paid.
    expires_at BIGINT,
    invoice_id TEXT,
    schedule_id TEXT,
    -- 1 once Stripe's schedule has been let go.
    released INTEGER NOT NULL DEFAULT 0,
    -- 1 once its customer does not want it any more.
    back_wanted INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    actor TEXT NOT NULL,
    -- Which of an order's changes came about last: 1, 2 …
    applied_no BIGINT,
    -- 0 while the server has something to follow.
    followed INTEGER NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    applied_at BIGINT,
    ended_at BIGINT,
    updated_at BIGINT NOT NULL
);

CREATE INDEX billing_changes_by_order ON billing_changes (order_id, created_at);
CREATE INDEX billing_changes_to_follow ON billing_changes (followed, updated_at);
CREATE INDEX billing_changes_by_state ON billing_changes (state, created_at);
