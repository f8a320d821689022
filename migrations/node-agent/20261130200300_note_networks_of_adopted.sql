-- What the configuration of a VM that was taken over told of its network, until its first order says so: JSON.
ALTER TABLE resources ADD COLUMN seen_networks TEXT;
