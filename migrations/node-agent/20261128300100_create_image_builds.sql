-- Image orders: the exact bytes that were verified, and how far each is. They state a wish about this host, so they
-- have neither sequence nor generation; the id alone keeps one from being taken twice.
CREATE TABLE image_builds (
    order_id     TEXT   PRIMARY KEY,
    envelope     BYTEA  NOT NULL,
    payload      BYTEA  NOT NULL,               -- the signed bytes inside the envelope
    payload_hash BYTEA  NOT NULL,
    name         TEXT   NOT NULL,
    digest       TEXT   NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('accepted', 'running', 'ready', 'failed')),
    step         TEXT,                          -- the one that was begun last
    vmid         BIGINT,                        -- chosen before the VM is created
    upid         TEXT,                          -- of the step's task
    detail       TEXT,                          -- why it failed
    expires_at   BIGINT NOT NULL,
    accepted_at  BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL
);
CREATE INDEX image_builds_by_state ON image_builds (state, accepted_at);
