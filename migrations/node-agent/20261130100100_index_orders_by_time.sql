-- How many orders came lately is asked at every delivery; without this each order's bytes would be read for it.
CREATE INDEX orders_by_time ON orders (accepted_at, instance_uuid);
