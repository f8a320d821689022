-- Consoles: first a ticket that is good for one WebSocket within a minute, then a console that is open, then one
-- that has ended. `seen_at` is renewed while it is open, so that those of a process that died are found.
CREATE TABLE consoles (
    id          TEXT   PRIMARY KEY,
    instance_id TEXT   NOT NULL,
    account_id  TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    actor       TEXT   NOT NULL,
    ticket_hash TEXT   NOT NULL,
    session_id  TEXT,                          -- the browser it was given to
    token_id    TEXT,                          -- or the API token that asked
    state       TEXT   NOT NULL,               -- ticket, open, ended
    issued_at   BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,               -- of the ticket
    opened_at   BIGINT,
    seen_at     BIGINT,
    ended_at    BIGINT,
    reason      TEXT,
    bytes_up    BIGINT NOT NULL,               -- from the person to the server
    bytes_down  BIGINT NOT NULL
);
CREATE UNIQUE INDEX consoles_by_ticket ON consoles (ticket_hash);
CREATE INDEX consoles_by_instance ON consoles (instance_id, state);
CREATE INDEX consoles_by_state ON consoles (state, seen_at);
