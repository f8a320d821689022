-- Console grants that were used: a nonce is burnt here before anything is opened, and stays longer than any clock can
-- make its grant valid again.
CREATE TABLE console_grants (
    nonce         TEXT   PRIMARY KEY,
    console_id    TEXT   NOT NULL,
    instance_uuid TEXT   NOT NULL,
    kind          TEXT   NOT NULL,
    actor         TEXT   NOT NULL,
    used_at       BIGINT NOT NULL,
    keep_until    BIGINT NOT NULL
);
CREATE INDEX console_grants_by_end ON console_grants (keep_until);
