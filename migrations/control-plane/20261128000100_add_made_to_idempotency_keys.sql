-- What the request with this key made: written in the transaction that makes it, so that a repetition after a crash
-- finds the thing instead of making another. Owner: api.
ALTER TABLE idempotency_keys ADD COLUMN made TEXT;
