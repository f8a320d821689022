-- Customers' servers. Owner: instances. The size is copied from the plan at the time of sale, so that
-- a changed plan never changes a sold server.
CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    order_id TEXT NOT NULL UNIQUE,
    hostname TEXT NOT NULL,
    location TEXT NOT NULL,
    plan_code TEXT NOT NULL,
    image_code TEXT NOT NULL,
    image_digest TEXT NOT NULL,
    login_user TEXT NOT NULL,
    vcpu BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    ssh_keys TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    node_id TEXT,
    provisioning_order_id TEXT,
    attempts BIGINT NOT NULL,
    tried_nodes TEXT NOT NULL,
    observed_state TEXT,
    observed_at BIGINT,
    host_keys TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    assigned_at BIGINT,
    built_at BIGINT,
    usable_at BIGINT,
    retired_at BIGINT,
    purge_at BIGINT,
    purged_at BIGINT
);

CREATE INDEX instances_by_account ON instances (account_id, created_at);

CREATE INDEX instances_by_node ON instances (node_id);

-- What the API calls an action: the progress of one change to a server.
CREATE TABLE instance_actions (
    id TEXT NOT NULL PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    provisioning_order_id TEXT UNIQUE,
    requested_by TEXT NOT NULL,
    error TEXT,
    started_at BIGINT NOT NULL,
    finished_at BIGINT
);

CREATE INDEX instance_actions_by_instance ON instance_actions (instance_id, started_at);
