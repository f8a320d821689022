-- The limits of a server, copied from its plan when it was sold. Owner of all below: instances.
ALTER TABLE instances ADD COLUMN snapshots BIGINT NOT NULL DEFAULT 5;

ALTER TABLE instances ADD COLUMN backups BIGINT NOT NULL DEFAULT 0;

-- What an action is about: a snapshot's name, an image, the order that made a backup.
ALTER TABLE instance_actions ADD COLUMN about TEXT;

CREATE INDEX instance_actions_open ON instance_actions (instance_id, state);

-- What a server is like beyond what was sold, as its node carried it out last (`applied`, the settings as
-- text), and the provisioning order that is changing it now, if one is. A server without a row is as sold.
CREATE TABLE instance_settings (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id),
    applied TEXT NOT NULL,
    applied_generation BIGINT NOT NULL,
    suspended INTEGER NOT NULL,
    provisioning_order_id TEXT,
    builds BIGINT NOT NULL,
    disk_lost INTEGER NOT NULL,
    restart_needed INTEGER NOT NULL,
    updated_at BIGINT NOT NULL
);

-- The settings that a provisioning order carries, so that whatever comes of it, and whenever, is known to be
-- about these.
CREATE TABLE instance_changes (
    provisioning_order_id TEXT NOT NULL PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    settings TEXT NOT NULL
);

-- Whether a server shall be suspended: durable before anything is done about it, and carried out until it is so.
CREATE TABLE instance_suspensions (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id),
    suspended INTEGER NOT NULL,
    reason TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL
);

-- What the node said it keeps of a server: the whole list, and the place in the node's sequence of the order that
-- said so, so that a late report never takes the place of a newer one. `kind` is `snapshots` or `backups`.
CREATE TABLE instance_lists (
    instance_id TEXT NOT NULL REFERENCES instances (id),
    kind TEXT NOT NULL,
    items TEXT NOT NULL,
    seq BIGINT NOT NULL,
    reported_at BIGINT NOT NULL,
    PRIMARY KEY (instance_id, kind)
);
