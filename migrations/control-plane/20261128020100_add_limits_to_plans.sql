-- How many snapshots and backups come with a plan; 0 means none are sold. Owner: catalog.
ALTER TABLE plans ADD COLUMN snapshots BIGINT NOT NULL DEFAULT 5;

ALTER TABLE plans ADD COLUMN backups BIGINT NOT NULL DEFAULT 0;

-- A rescue image is booted beside a server's own disk and never sold as a server's system.
ALTER TABLE images ADD COLUMN rescue INTEGER NOT NULL DEFAULT 0;

-- Media that may be put into a server's CD drive, by their file name on the nodes' ISO storage.
CREATE TABLE isos (
    file TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    position BIGINT NOT NULL,
    on_sale INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);
