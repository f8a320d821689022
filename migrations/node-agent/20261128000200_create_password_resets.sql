-- Passwords that wait for a guest's next boot: one for an instance, the newest.
CREATE TABLE password_resets (
    instance_uuid TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    hash TEXT NOT NULL
);
-- Finding the order a task belongs to.
CREATE INDEX steps_by_upid ON steps (upid) WHERE upid IS NOT NULL;
