-- fleet: locations, nodes and what may be sold of them, addresses, enrolment, sessions, alarms.

CREATE TABLE locations (
    code TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    country TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE nodes (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    location TEXT NOT NULL REFERENCES locations (code),
    state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'cordoned', 'quarantined', 'revoked')),
    epoch BIGINT NOT NULL,
    fingerprint TEXT,
    cluster TEXT,
    pve_node TEXT,
    pve_version TEXT,
    agent_version TEXT,
    vmid_first BIGINT NOT NULL,
    vmid_last BIGINT NOT NULL,
    vmid_next BIGINT NOT NULL,
    -- What the node's policy file allows, as it said in Hello; JSON.
    policy TEXT NOT NULL,
    -- Digests of the images it has templates for; JSON.
    images TEXT NOT NULL,
    -- What its agent warns about; JSON.
    warnings TEXT NOT NULL,
    storages TEXT NOT NULL,
    foreign_vms BIGINT NOT NULL,
    certificate_not_after BIGINT,
    -- The journal it has, and how far its events are stored here.
    journal_id TEXT,
    acked_event_seq BIGINT NOT NULL,
    -- The value of its last Welcome and the one before, for a Welcome that was lost.
    ratchet BYTEA,
    ratchet_previous BYTEA,
    report_epoch TEXT,
    report_seq BIGINT NOT NULL,
    hello_at BIGINT,
    reported_at BIGINT,
    last_seen_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);
CREATE INDEX nodes_location ON nodes (location);

-- One row per node. "Sold" moves only by guarded updates, so it never passes "capacity" (I10).
CREATE TABLE node_capacity (
    node_id TEXT NOT NULL PRIMARY KEY REFERENCES nodes (id),
    vcpu_capacity BIGINT NOT NULL,
    vcpu_sold BIGINT NOT NULL CHECK (vcpu_sold >= 0),
    memory_mib_capacity BIGINT NOT NULL,
    memory_mib_sold BIGINT NOT NULL CHECK (memory_mib_sold >= 0),
    disk_gib_capacity BIGINT NOT NULL,
    disk_gib_sold BIGINT NOT NULL CHECK (disk_gib_sold >= 0),
    cores_observed BIGINT NOT NULL,
    memory_mib_observed BIGINT NOT NULL,
    memory_mib_used BIGINT NOT NULL,
    disk_gib_observed BIGINT NOT NULL,
    disk_gib_used BIGINT NOT NULL,
    cpu_permille BIGINT NOT NULL,
    -- Placed or reserved servers, and how many the policy allows.
    servers BIGINT NOT NULL CHECK (servers >= 0),
    servers_capacity BIGINT NOT NULL,
    updated_at BIGINT
);

-- Where an instance lives or is to live. It goes away when the capacity is given back.
CREATE TABLE placements (
    instance_id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id),
    cluster TEXT NOT NULL,
    vmid BIGINT NOT NULL,
    bridge TEXT NOT NULL,
    vlan BIGINT,
    mac TEXT NOT NULL,
    vcpu BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_gib BIGINT NOT NULL,
    reserved_until BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (cluster, vmid)
);
CREATE INDEX placements_node ON placements (node_id);

-- Every VMID ever given out in a cluster, with its MAC; reused only after quarantine.
CREATE TABLE vmid_allocations (
    cluster TEXT NOT NULL,
    vmid BIGINT NOT NULL,
    node_id TEXT NOT NULL,
    instance_id TEXT,
    mac TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('held', 'quarantine', 'free', 'foreign')),
    free_at BIGINT,
    PRIMARY KEY (cluster, vmid)
);
CREATE INDEX vmid_allocations_instance ON vmid_allocations (instance_id);

CREATE TABLE address_pools (
    id TEXT NOT NULL PRIMARY KEY,
    location TEXT NOT NULL REFERENCES locations (code),
    bridge TEXT NOT NULL,
    vlan BIGINT,
    family INTEGER NOT NULL CHECK (family IN (4, 6)),
    prefix TEXT NOT NULL UNIQUE,
    gateway TEXT NOT NULL,
    dns TEXT NOT NULL,
    routed INTEGER NOT NULL,
    first_ordinal BIGINT NOT NULL,
    next_ordinal BIGINT NOT NULL,
    end_ordinal BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX address_pools_location ON address_pools (location);

-- Addresses that were given out at least once; the rest of a pool is everything from next_ordinal on.
CREATE TABLE addresses (
    pool_id TEXT NOT NULL REFERENCES address_pools (id),
    ordinal BIGINT NOT NULL,
    address TEXT NOT NULL UNIQUE,
    prefix_len BIGINT NOT NULL,
    family INTEGER NOT NULL,
    instance_id TEXT,
    state TEXT NOT NULL CHECK (state IN ('held', 'quarantine', 'free')),
    free_at BIGINT,
    PRIMARY KEY (pool_id, ordinal)
);
CREATE INDEX addresses_instance ON addresses (instance_id);

CREATE TABLE join_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id),
    secret_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    failures BIGINT NOT NULL,
    key_hash TEXT,
    serial TEXT
);
CREATE INDEX join_tokens_node ON join_tokens (node_id);

CREATE TABLE node_certificates (
    serial TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id),
    epoch BIGINT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('next', 'current', 'superseded', 'revoked')),
    der BYTEA NOT NULL,
    not_before BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    valid_until BIGINT NOT NULL,
    issued_at BIGINT NOT NULL
);
CREATE INDEX node_certificates_node ON node_certificates (node_id);

-- Which process holds a node's live connection. A node counts as seen while its process beats.
CREATE TABLE node_sessions (
    node_id TEXT NOT NULL PRIMARY KEY REFERENCES nodes (id),
    process TEXT NOT NULL,
    connection TEXT NOT NULL,
    serial TEXT NOT NULL,
    remote TEXT NOT NULL,
    connected_at BIGINT NOT NULL
);

CREATE TABLE link_processes (
    id TEXT NOT NULL PRIMARY KEY,
    started_at BIGINT NOT NULL,
    beat_at BIGINT NOT NULL
);

-- One row per kind and subject: a repeated cause counts up instead of adding rows.
CREATE TABLE alarms (
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    severity TEXT NOT NULL CHECK (severity IN ('warning', 'critical')),
    node_id TEXT,
    detail TEXT NOT NULL,
    occurrences BIGINT NOT NULL,
    raised_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    cleared_at BIGINT,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX alarms_open ON alarms (cleared_at, last_at);
