-- When a node was revoked: from then on it is told nothing any more, and some time later its agent starts nothing any
-- more. Null for a node that is not, or was before this migration.
ALTER TABLE nodes ADD COLUMN revoked_at BIGINT;
