-- A payment that an operator took for what it is counts as settled; what was wrong with it stays written beside it. Where that
-- was the price, the one it came with is the purchase's: its server stays as it was ordered and built.
UPDATE billing_checkouts SET stripe_price_id = COALESCE(
    (SELECT s.stripe_price_id FROM billing_subscriptions s WHERE s.order_id = billing_checkouts.order_id), stripe_price_id)
WHERE state = 'suspicious' AND problem = 'price'
  AND order_id IN (SELECT id FROM orders WHERE state IN ('paid', 'provisioning', 'fulfilled'));
UPDATE billing_checkouts SET state = 'settled'
WHERE state = 'suspicious'
  AND order_id IN (SELECT id FROM orders WHERE state IN ('paid', 'provisioning', 'fulfilled'));
