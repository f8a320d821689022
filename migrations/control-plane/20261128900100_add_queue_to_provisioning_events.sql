-- Where an order waits for its turn on its node, with the progress of the step that waits: 1 is next. The estimate is in
-- seconds from the event on; null where the node knows none.
ALTER TABLE provisioning_events ADD COLUMN queue_position BIGINT;
ALTER TABLE provisioning_events ADD COLUMN queue_estimate_secs BIGINT;
