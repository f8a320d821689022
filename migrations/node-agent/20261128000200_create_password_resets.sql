-- Passwords that wait for a guest's next boot: one for an instance, the newest.
CREATE TABLE password_resets (
    instance_uuid TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    hash TEXT NOT NULL
);
-- Finding the order a task belongs to.
CREATE INDEX steps_by_upid ON steps (upid) WHERE upid IS NOT NULL;

-- Disks that were replaced count towards a budget, too. SQLite changes a CHECK only with its table.
CREATE TABLE counted_acts (
    kind TEXT NOT NULL CHECK (kind IN ('create', 'purge', 'replace')),
    at BIGINT NOT NULL
);
INSERT INTO counted_acts (kind, at) SELECT kind, at FROM acts;
DROP TABLE acts;
ALTER TABLE counted_acts RENAME TO acts;
CREATE INDEX acts_at ON acts (kind, at);
