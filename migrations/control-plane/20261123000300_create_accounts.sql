-- People, what they own things by, and how they prove who they are. Owner: accounts.
CREATE TABLE users (
    id                TEXT   PRIMARY KEY,
    -- Lower case, trimmed: one person has one spelling.
    email             TEXT   NOT NULL UNIQUE,
    -- argon2id in PHC form; NULL until a first link was followed.
    password_hash     TEXT,
    -- support, billing, operator; NULL is a customer.
    staff_role        TEXT,
    email_verified_at BIGINT,
    terms_version     TEXT,
    terms_accepted_at BIGINT,
    disabled_at       BIGINT,
    created_at        BIGINT NOT NULL
);

CREATE TABLE accounts (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE memberships (
    account_id TEXT   NOT NULL REFERENCES accounts (id),
    user_id    TEXT   NOT NULL REFERENCES users (id),
    role       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account_id, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id);

-- Logged-in browsers. The cookie holds the secret, the row its hash.
CREATE TABLE sessions (
    id           TEXT   PRIMARY KEY,
    token_hash   TEXT   NOT NULL UNIQUE,
    user_id      TEXT   NOT NULL REFERENCES users (id),
    account_id   TEXT   NOT NULL REFERENCES accounts (id),
    created_at   BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    ends_at      BIGINT NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);

-- One-time links sent by mail: proof of an address, or a new password.
CREATE TABLE email_links (
    token_hash    TEXT   PRIMARY KEY,
    user_id       TEXT   NOT NULL REFERENCES users (id),
    purpose       TEXT   NOT NULL,
    -- The password of the sign-up that sent this link; set when it is followed, so that nobody's
    -- password is set by somebody else's sign-up.
    password_hash TEXT,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    used_at       BIGINT
);
CREATE INDEX email_links_by_user ON email_links (user_id, created_at);

-- Bearer tokens of the REST API, stored hashed.
CREATE TABLE api_tokens (
    id           TEXT   PRIMARY KEY,
    token_hash   TEXT   NOT NULL UNIQUE,
    account_id   TEXT   NOT NULL REFERENCES accounts (id),
    user_id      TEXT   NOT NULL REFERENCES users (id),
    name         TEXT   NOT NULL,
    -- JSON list of scopes.
    scopes       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT,
    expires_at   BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX api_tokens_by_account ON api_tokens (account_id);

CREATE TABLE ssh_keys (
    id          TEXT   PRIMARY KEY,
    account_id  TEXT   NOT NULL REFERENCES accounts (id),
    name        TEXT   NOT NULL,
    public_key  TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    UNIQUE (account_id, fingerprint)
);
