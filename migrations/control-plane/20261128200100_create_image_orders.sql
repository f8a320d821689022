-- catalog: where an image comes from, which distribution it is, and what may be set up on it at the first boot (JSON list).
ALTER TABLE images ADD COLUMN url TEXT;
ALTER TABLE images ADD COLUMN family TEXT;
ALTER TABLE images ADD COLUMN recipes TEXT;

-- dispatch: signed orders to have an image ready on a node. The exact bytes, never rebuilt.
CREATE TABLE image_orders (
    id TEXT NOT NULL PRIMARY KEY,
    node_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    image_code TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    url TEXT NOT NULL,
    actor TEXT NOT NULL,
    envelope BYTEA NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('signed', 'queued', 'accepted', 'running', 'ready', 'failed', 'refused', 'expired')),
    step TEXT,
    detail TEXT,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_attempt_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX image_orders_due ON image_orders (node_id, state, issued_at);
