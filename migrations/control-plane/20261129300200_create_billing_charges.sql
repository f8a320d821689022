-- What each subscription brings in a month, from when on: a step function over time, from which the past is summed up.
-- Owner: billing.
CREATE TABLE billing_charges (
    subscription_id TEXT NOT NULL,
    since BIGINT NOT NULL,
    account_id TEXT NOT NULL,
    currency TEXT NOT NULL,
    -- Minor units; what is charged for longer or shorter is shared out.
    monthly_minor BIGINT NOT NULL,
    -- 1 while it is charged.
    live INTEGER NOT NULL,
    PRIMARY KEY (subscription_id, since)
);

INSERT INTO billing_charges (subscription_id, since, account_id, currency, monthly_minor, live)
SELECT s.stripe_id, COALESCE(c.settled_at, s.period_start, s.updated_at), s.account_id, s.currency,
       CASE WHEN s.status = 'trialing' THEN 0 WHEN s.yearly = 1 THEN s.amount_minor / 12 ELSE s.amount_minor END, 1
FROM billing_subscriptions s JOIN billing_checkouts c ON c.order_id = s.order_id
WHERE s.currency IS NOT NULL AND s.amount_minor IS NOT NULL AND s.status NOT IN ('incomplete', 'incomplete_expired');

INSERT INTO billing_charges (subscription_id, since, account_id, currency, monthly_minor, live)
SELECT s.stripe_id, COALESCE(s.canceled_at, s.updated_at), s.account_id, s.currency, 0, 0
FROM billing_subscriptions s
WHERE s.currency IS NOT NULL AND s.amount_minor IS NOT NULL AND s.status = 'canceled'
      AND EXISTS (SELECT 1 FROM billing_charges b WHERE b.subscription_id = s.stripe_id
                                                   AND b.since < COALESCE(s.canceled_at, s.updated_at));
