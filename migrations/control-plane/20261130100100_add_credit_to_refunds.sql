-- Credit that had paid for a purchase and went back to its customer's balance with the refund; null while that was not looked
-- at.
ALTER TABLE billing_refunds ADD COLUMN credit_minor BIGINT;
