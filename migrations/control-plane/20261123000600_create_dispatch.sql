-- dispatch: signed provisioning orders (the outbox), what nodes said about them, and the counters.

CREATE TABLE provisioning_orders (
    id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    instance_id TEXT NOT NULL,
    vmid BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    verb TEXT NOT NULL,
    spec_hash TEXT,
    order_id TEXT,
    actor TEXT NOT NULL,
    -- The exact bytes that were signed, and their envelope. Never rebuilt.
    envelope BYTEA NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('signed', 'queued', 'accepted', 'running', 'succeeded', 'failed', 'undone',
          'stuck', 'refused', 'expired', 'superseded', 'cancelled')),
    step TEXT,
    refusal TEXT,
    detail TEXT,
    class TEXT,
    facts TEXT,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    queued_at BIGINT,
    accepted_at BIGINT,
    finished_at BIGINT,
    attempts BIGINT NOT NULL,
    next_attempt_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (node_id, seq)
);
CREATE INDEX provisioning_orders_due ON provisioning_orders (node_id, state, seq);
CREATE INDEX provisioning_orders_instance ON provisioning_orders (instance_id, seq);
CREATE INDEX provisioning_orders_state ON provisioning_orders (state, issued_at);

-- What nodes reported, once per (journal, number): a repeated delivery changes nothing.
CREATE TABLE provisioning_events (
    journal TEXT NOT NULL,
    event_seq BIGINT NOT NULL,
    node_id TEXT NOT NULL,
    provisioning_order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    step TEXT,
    detail TEXT,
    percent BIGINT,
    at BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL,
    PRIMARY KEY (journal, event_seq)
);
CREATE INDEX provisioning_events_order ON provisioning_events (provisioning_order_id, at, event_seq);

-- The same cause never issues twice.
CREATE TABLE provisioning_causes (
    instance_id TEXT NOT NULL,
    verb TEXT NOT NULL,
    cause_key TEXT NOT NULL,
    provisioning_order_id TEXT NOT NULL,
    PRIMARY KEY (instance_id, verb, cause_key)
);

CREATE TABLE node_sequences (
    node_id TEXT NOT NULL PRIMARY KEY,
    next_seq BIGINT NOT NULL
);

CREATE TABLE instance_generations (
    instance_id TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    spec_hash TEXT,
    vmid BIGINT NOT NULL
);
