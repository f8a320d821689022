-- Limits count the provisioning orders of the last minutes, and operators look at the newest ones first.
CREATE INDEX provisioning_orders_issued ON provisioning_orders (issued_at, id);
