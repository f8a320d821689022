-- The size that a server shall have, where it was changed since it was sold. Owner: instances.
CREATE TABLE instance_sizes (
    instance_id TEXT NOT NULL PRIMARY KEY,
    plan_code TEXT NOT NULL,
    vcpu BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    snapshots BIGINT NOT NULL,
    backups BIGINT NOT NULL,
    -- 1 when it takes a restart that we owe: what it no longer pays for is given back then.
    restart INTEGER NOT NULL,
    -- 1 once its node has carried it out, the restart that we owe included.
    settled INTEGER NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL
);

CREATE INDEX instance_sizes_by_settled ON instance_sizes (settled, requested_at);
