-- How many addresses of a pool are free again is asked at every look for a place; most of a pool is held.
CREATE INDEX addresses_free ON addresses (pool_id, ordinal) WHERE state = 'free';
