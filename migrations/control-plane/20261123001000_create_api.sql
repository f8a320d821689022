-- Answers to POSTs that carried an Idempotency-Key; kept for a day. Owner: api.
CREATE TABLE idempotency_keys (
    account_id   TEXT   NOT NULL,
    key          TEXT   NOT NULL,
    -- SHA-256 over path and body: the same key for another request is refused.
    fingerprint  TEXT   NOT NULL,
    -- NULL while the first request runs.
    status       BIGINT,
    content_type TEXT,
    body         BYTEA,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (account_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
