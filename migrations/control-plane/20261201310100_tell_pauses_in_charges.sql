-- What is charged nothing any more either rests (paused, or left unpaid by Stripe) or is over. Until now both were live = 0. Nothing
-- comes after an end, so what has something after it rested; and so does what is not cancelled now.
ALTER TABLE billing_charges ADD COLUMN rests INTEGER NOT NULL DEFAULT 0;

UPDATE billing_charges SET rests = 1
WHERE live = 0
      AND (EXISTS (SELECT 1 FROM billing_charges later
                   WHERE later.subscription_id = billing_charges.subscription_id AND later.since > billing_charges.since)
           OR EXISTS (SELECT 1 FROM billing_subscriptions s
                      WHERE s.stripe_id = billing_charges.subscription_id AND s.status <> 'canceled'));
