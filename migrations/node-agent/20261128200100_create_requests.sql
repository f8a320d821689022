-- Break-glass: what root of this host asked of the agent, who it was, why, and what came of it. Never deleted.
CREATE TABLE requests (
    n        INTEGER PRIMARY KEY,
    verb     TEXT    NOT NULL CHECK (verb IN ('resume', 'abandon', 'unlock')),
    order_id TEXT,                               -- for resume and abandon
    who      TEXT    NOT NULL,                   -- JSON: uid, name, login, sudo, terminal
    reason   TEXT    NOT NULL,                   -- empty if none was given
    asked_at BIGINT  NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('asked', 'done', 'refused', 'expired')),
    outcome  TEXT,                               -- one sentence, once it ended
    ended_at BIGINT
);
CREATE INDEX requests_asked ON requests (n) WHERE state = 'asked';
CREATE INDEX requests_by_order ON requests (order_id);

-- One row: the circuit that opens when the destroy budget of the policy file is exceeded.
CREATE TABLE circuit (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    opened_at    BIGINT,                         -- since when every purge is refused; null: the budget alone counts
    counted_from BIGINT  NOT NULL                -- purges up to here count no more: root said so
);
INSERT INTO circuit (id, opened_at, counted_from) VALUES (1, NULL, 0);
