-- Set-up fees, trials and several currencies. Owners: catalog (prices), orders (orders), billing (the rest).
ALTER TABLE prices ADD COLUMN setup_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE prices ADD COLUMN trial_days INTEGER NOT NULL DEFAULT 0;
ALTER TABLE prices ADD COLUMN stripe_setup_price_id TEXT;
-- Place in the file: the first price's currency is the one that is shown first.
ALTER TABLE prices ADD COLUMN position BIGINT NOT NULL DEFAULT 0;

ALTER TABLE orders ADD COLUMN setup_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE orders ADD COLUMN trial_days INTEGER NOT NULL DEFAULT 0;
-- What was paid at the purchase, after discounts and with taxes; known once it was paid.
ALTER TABLE orders ADD COLUMN paid_minor BIGINT;

ALTER TABLE billing_checkouts ADD COLUMN setup_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_checkouts ADD COLUMN stripe_setup_price_id TEXT;
ALTER TABLE billing_checkouts ADD COLUMN trial_days INTEGER NOT NULL DEFAULT 0;
-- off, inclusive or exclusive: how taxes were to be worked out when it was ordered.
ALTER TABLE billing_checkouts ADD COLUMN tax TEXT NOT NULL DEFAULT 'off';
-- What Stripe said when it was paid.
ALTER TABLE billing_checkouts ADD COLUMN discount_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_checkouts ADD COLUMN tax_minor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE billing_checkouts ADD COLUMN paid_minor BIGINT;

-- Promotion codes of ours that Stripe has; what was one once stays known, for payments that come late.
CREATE TABLE billing_promotion_codes (
    stripe_id TEXT NOT NULL PRIMARY KEY,
    code TEXT NOT NULL,
    coupon_id TEXT NOT NULL,
    -- Whether Stripe takes it, as of the last comparison.
    live INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Coupons of the file. The id is <code>:v<version>; new terms are a new version. Owner: catalog.
CREATE TABLE coupons (
    id TEXT NOT NULL PRIMARY KEY,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    percent_off INTEGER,
    amount_off_minor BIGINT,
    currency TEXT,
    -- once, months or forever.
    duration TEXT NOT NULL,
    months INTEGER,
    -- Codes of the plans it is good for, as a JSON list; empty for all.
    plans TEXT NOT NULL,
    position BIGINT NOT NULL,
    on_sale INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE promotion_codes (
    code TEXT NOT NULL PRIMARY KEY,
    coupon_id TEXT NOT NULL REFERENCES coupons (id),
    first_purchase INTEGER NOT NULL,
    max_uses BIGINT,
    expires_at BIGINT,
    on_sale INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);
