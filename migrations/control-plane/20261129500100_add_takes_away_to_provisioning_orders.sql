-- What an order takes away for good, in quarters of a disk: 4 for a rebuild, a rollback or a restore, 1 for a snapshot or
-- backup that is deleted. Nodes have a budget for it, and so that it is kept we count as they do.
ALTER TABLE provisioning_orders ADD COLUMN takes_away INTEGER NOT NULL DEFAULT 0;
-- The build of its disk that an ensure wished, by which a rebuild is known; null in orders from before.
ALTER TABLE provisioning_orders ADD COLUMN build BIGINT;
CREATE INDEX provisioning_orders_taking ON provisioning_orders (node_id, issued_at) WHERE takes_away > 0;
