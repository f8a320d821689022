-- A payment that an operator took for what it is counts as settled; what was wrong with it stays written beside it.
UPDATE billing_checkouts SET state = 'settled'
WHERE state = 'suspicious'
  AND order_id IN (SELECT id FROM orders WHERE state IN ('paid', 'provisioning', 'fulfilled'));
