-- Acts that take data away are counted by server and by weight, and an order that ended without having touched anything
-- counts no more.
ALTER TABLE acts ADD COLUMN instance_uuid TEXT;
ALTER TABLE acts ADD COLUMN order_id TEXT;
ALTER TABLE acts ADD COLUMN weight INTEGER NOT NULL DEFAULT 4; -- quarters of a disk
CREATE INDEX acts_by_order ON acts (order_id);
