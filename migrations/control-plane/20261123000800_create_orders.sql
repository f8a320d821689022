-- Commercial purchases. Owner: orders.
CREATE TABLE orders (
    id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    email TEXT NOT NULL,
    instance_id TEXT NOT NULL UNIQUE,
    hostname TEXT NOT NULL,
    plan_code TEXT NOT NULL,
    plan_name TEXT NOT NULL,
    image_code TEXT NOT NULL,
    image_name TEXT NOT NULL,
    location TEXT NOT NULL,
    price_id TEXT NOT NULL,
    billing_interval TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    terms_version TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    reserved_until BIGINT NOT NULL,
    placed_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    paid_at BIGINT,
    fulfilled_at BIGINT,
    closed_at BIGINT,
    needs_operator_at BIGINT,
    refund_due_at BIGINT,
    -- 1 to 3 while the order is unpaid: an account has no more unpaid orders than slots.
    unpaid_slot BIGINT,
    version BIGINT NOT NULL,
    UNIQUE (account_id, unpaid_slot)
);

CREATE INDEX orders_by_account ON orders (account_id, placed_at);

CREATE INDEX orders_by_state ON orders (state, updated_at);

-- One row for each state an order was in, in order: the customer's timeline and the operator's history.
CREATE TABLE order_transitions (
    order_id TEXT NOT NULL REFERENCES orders (id),
    seq BIGINT NOT NULL,
    from_state TEXT,
    to_state TEXT NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT,
    at BIGINT NOT NULL,
    PRIMARY KEY (order_id, seq)
);
