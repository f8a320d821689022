-- Work to be done once, at or after a time. One row per (kind, key); leases by the database's clock.
CREATE TABLE jobs (
    kind        TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    payload     TEXT    NOT NULL,
    run_at      BIGINT  NOT NULL,
    -- Asked for again while it was running: when to run next.
    again_at    BIGINT,
    -- Who runs it and until when; a lease that has passed may be taken over.
    lease_token TEXT,
    lease_until BIGINT,
    attempts    BIGINT  NOT NULL DEFAULT 0,
    last_error  TEXT,
    -- Given up; stays visible until it is asked for again or removed.
    dead_at     BIGINT,
    created_at  BIGINT  NOT NULL,
    PRIMARY KEY (kind, key)
);
CREATE INDEX jobs_due ON jobs (run_at) WHERE dead_at IS NULL;

-- Mail to be sent: written in the transaction of its cause, delivered by a job.
CREATE TABLE mail_outbox (
    id          TEXT    PRIMARY KEY,
    template    TEXT    NOT NULL,
    recipient   TEXT    NOT NULL,
    -- JSON that the template is rendered with at delivery; wiped once sent, as it may hold one-time links.
    context     TEXT    NOT NULL,
    created_at  BIGINT  NOT NULL,
    sent_at     BIGINT,
    failed_at   BIGINT,
    last_error  TEXT
);
