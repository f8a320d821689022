-- The bytes of an order that is over, acknowledged and overtaken are let go long before its row; what deduplication, people and
-- the invariants need of them stays.
ALTER TABLE orders ADD COLUMN asks TEXT;          -- in a word what it asked for
ALTER TABLE orders ADD COLUMN envelope_hash BYTEA; -- SHA-256 of the bytes as they came
ALTER TABLE orders ADD COLUMN shed_at BIGINT;     -- when they were let go; null: the row is whole
-- Those that are whole, by which the search for what can go does not read all the others.
CREATE INDEX orders_whole ON orders (seq) WHERE shed_at IS NULL;
