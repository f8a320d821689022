-- Who has looked at a card network's warning of fraud and found its payment good, and when. Stripe has no word for that, so
-- what it says of the warning later takes nothing of it back.
ALTER TABLE billing_disputes ADD COLUMN checked_at BIGINT;
ALTER TABLE billing_disputes ADD COLUMN checked_by TEXT;
