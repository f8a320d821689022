-- What is sold. Owner: catalog. Written by `apply` only; orders copy what they need at the time of sale.
CREATE TABLE plans (
    code TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    vcpu BIGINT NOT NULL CHECK (vcpu > 0),
    memory_mib BIGINT NOT NULL CHECK (memory_mib > 0),
    disk_gib BIGINT NOT NULL CHECK (disk_gib > 0),
    traffic_gib BIGINT NOT NULL CHECK (traffic_gib >= 0),
    position BIGINT NOT NULL,
    on_sale INTEGER NOT NULL,
    stripe_product_id TEXT,
    updated_at BIGINT NOT NULL
);

-- The id is the lookup key at Stripe: <plan>:<interval>:<currency>:v1
CREATE TABLE prices (
    id TEXT NOT NULL PRIMARY KEY,
    plan_code TEXT NOT NULL REFERENCES plans (code),
    billing_interval TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL CHECK (amount_minor > 0),
    on_sale INTEGER NOT NULL,
    stripe_price_id TEXT,
    updated_at BIGINT NOT NULL
);

CREATE INDEX prices_by_plan ON prices (plan_code);

CREATE TABLE images (
    code TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    login_user TEXT NOT NULL,
    position BIGINT NOT NULL,
    on_sale INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);
