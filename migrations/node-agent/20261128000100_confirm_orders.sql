-- Whether the control plane is known to know that an order was accepted: until then it may believe that nobody has it.

-- The event that says so, and when its acknowledgement came, by this host's clock. An order from before this migration
-- has neither.
ALTER TABLE orders ADD COLUMN accepted_event BIGINT;
ALTER TABLE orders ADD COLUMN confirmed_at BIGINT;
CREATE INDEX orders_unconfirmed ON orders (accepted_event) WHERE confirmed_at IS NULL AND accepted_event IS NOT NULL;
