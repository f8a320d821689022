-- That a server is to end: written before anything is done about it, so that a crash between the end of the
-- subscription and the retire order loses neither. Owner: instances.
CREATE TABLE instance_endings (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id),
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL
);
