-- How many months a paid period has; `yearly` knew only one or twelve. Owner: billing.
ALTER TABLE billing_subscriptions ADD COLUMN months INTEGER NOT NULL DEFAULT 1;
UPDATE billing_subscriptions SET months = 12 WHERE yearly = 1;
