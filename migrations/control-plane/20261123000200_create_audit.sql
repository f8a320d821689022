-- Who did what. Written unchained in the transaction of the change; the sealer adds place and hash.
CREATE TABLE audit (
    id           TEXT    PRIMARY KEY,
    at           BIGINT  NOT NULL,
    actor        TEXT    NOT NULL,
    action       TEXT    NOT NULL,
    subject_kind TEXT    NOT NULL,
    subject_id   TEXT    NOT NULL,
    -- Exact bytes that the hash covers; never rewritten.
    entry        TEXT    NOT NULL,
    -- Place in the chain and hash over the previous hash and the entry; both or neither.
    seq          BIGINT  UNIQUE,
    hash         TEXT,
    CHECK ((seq IS NULL) = (hash IS NULL))
);
CREATE INDEX audit_unsealed ON audit (id) WHERE seq IS NULL;
CREATE INDEX audit_by_subject ON audit (subject_kind, subject_id, at);
