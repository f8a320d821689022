-- The node agent's journal. One writer, WAL, synchronous=FULL; what is acknowledged stands here first.

-- One row: who this node is and how far the fences have moved.
CREATE TABLE meta (
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    journal_id     TEXT    NOT NULL,             -- random, made with the file: shows a replaced journal
    node           TEXT,                         -- node id, once joined
    epoch          BIGINT  NOT NULL DEFAULT 0,
    floor_seq      BIGINT  NOT NULL DEFAULT 0,   -- orders at or below it are stale
    high_seq       BIGINT  NOT NULL DEFAULT 0,   -- the highest accepted sequence
    ratchet        BYTEA,                        -- the value of the last Welcome, presented next time
    trust_version  BIGINT  NOT NULL DEFAULT 0,
    report_epoch   BIGINT  NOT NULL DEFAULT 0,   -- +1 at each start of the process
    last_event_seq BIGINT  NOT NULL DEFAULT 0,
    acked_event_seq BIGINT NOT NULL DEFAULT 0,
    proto_floor    BIGINT  NOT NULL DEFAULT 0,   -- the highest protocol spoken: no downgrade below it
    created_at     BIGINT  NOT NULL
);

-- Accepted provisioning orders, the exact bytes that were verified.
CREATE TABLE orders (
    order_id      TEXT   PRIMARY KEY,
    seq           BIGINT NOT NULL UNIQUE,
    envelope      BYTEA  NOT NULL,
    payload       BYTEA  NOT NULL,               -- the signed bytes inside the envelope
    payload_hash  BYTEA  NOT NULL,
    instance_uuid TEXT   NOT NULL,
    vmid          BIGINT NOT NULL,
    generation    BIGINT NOT NULL,
    verb          TEXT   NOT NULL CHECK (verb IN ('ensure', 'action', 'retire', 'purge', 'adopt')),
    spec_hash     BYTEA  NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('accepted', 'running', 'undoing', 'succeeded', 'failed', 'undone', 'stuck', 'superseded', 'cancelled')),
    result        TEXT,                          -- JSON: facts or failure, once terminal
    event_seq     BIGINT,                        -- the event that carries the result
    expires_at    BIGINT NOT NULL,
    accepted_at   BIGINT NOT NULL,
    started_at    BIGINT,
    finished_at   BIGINT
);
CREATE INDEX orders_by_instance ON orders (instance_uuid, seq);
CREATE INDEX orders_by_state ON orders (state);

-- Steps of an order: intent before the effect, UPID as soon as it is known, result after it.
CREATE TABLE steps (
    order_id    TEXT    NOT NULL REFERENCES orders (order_id) ON DELETE CASCADE,
    k           INTEGER NOT NULL,                -- 1… forward, negative while undoing
    name        TEXT    NOT NULL,
    attempt     INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('intent', 'called', 'done', 'failed')),
    intent_json TEXT    NOT NULL,
    upid        TEXT,
    result_json TEXT,
    boot_id     TEXT    NOT NULL,
    t           BIGINT  NOT NULL,                -- of the last change
    PRIMARY KEY (order_id, k)
);

-- What this agent made and may touch. A VMID stays taken until its purge.
CREATE TABLE resources (
    uuid           TEXT   PRIMARY KEY,
    vmid           BIGINT NOT NULL UNIQUE,
    generation     BIGINT NOT NULL,
    observed_generation BIGINT NOT NULL DEFAULT 0, -- the last generation carried out
    spec_hash      BYTEA,
    spec_json      TEXT,                         -- the wished spec
    applied_json   TEXT,                         -- the spec that was carried out last
    marker         TEXT   NOT NULL,
    phase          TEXT   NOT NULL CHECK (phase IN ('reserved', 'creating', 'present', 'retired')),
    created_by     TEXT   NOT NULL,
    retired_at     BIGINT,
    updated_at     BIGINT NOT NULL
);

-- Fences of instances that are gone: their generation never goes back, their VMID may be used again.
CREATE TABLE departed (
    uuid       TEXT   PRIMARY KEY,
    vmid       BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    gone_at    BIGINT NOT NULL
);

-- Events on their way to the control plane; kept until acknowledged.
CREATE TABLE outbox (
    event_seq BIGINT  PRIMARY KEY,
    body      BYTEA   NOT NULL,
    acked     INTEGER NOT NULL DEFAULT 0
);

-- Orders that are over for long: what remains of them so that they never run again.
CREATE TABLE tombstones (
    order_id     TEXT   PRIMARY KEY,
    seq          BIGINT NOT NULL UNIQUE,
    payload_hash BYTEA  NOT NULL,
    generation   BIGINT NOT NULL,
    state        TEXT   NOT NULL,
    result       TEXT
);

-- Refusals: a ring of the last 1,000. A verified order that was refused stays refused.
CREATE TABLE refused (
    n         INTEGER PRIMARY KEY,
    at        BIGINT  NOT NULL,
    order_id  TEXT,
    seq       BIGINT,
    code      TEXT    NOT NULL,
    rule      TEXT,
    detail    TEXT    NOT NULL,
    final     INTEGER NOT NULL,
    payload_hash BYTEA,
    keep_until BIGINT NOT NULL
);
CREATE INDEX refused_by_order ON refused (order_id);

-- Destructive and creating acts, for the rates of the policy file.
CREATE TABLE acts (
    n    INTEGER PRIMARY KEY,
    kind TEXT    NOT NULL CHECK (kind IN ('create', 'purge')),
    at   BIGINT  NOT NULL
);
CREATE INDEX acts_by_time ON acts (kind, at);
