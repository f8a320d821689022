-- What servers and nodes use, and the traffic of servers by month. Owner of both tables: metrics.

-- Packed samples. `subject` is the id of a server or a node; a slot is `minutes` long (1, 5 or 60), and a row holds the
-- slots of an hour, a day or thirty days. `due` is 1 while the rows with longer slots do not know of it yet.
CREATE TABLE metric_blocks (
    subject TEXT NOT NULL,
    minutes BIGINT NOT NULL,
    block BIGINT NOT NULL,
    samples BYTEA NOT NULL,
    version BIGINT NOT NULL,
    due INTEGER NOT NULL,
    ends_at BIGINT NOT NULL,
    PRIMARY KEY (subject, minutes, block)
);

CREATE INDEX metric_blocks_due ON metric_blocks (due, ends_at);

CREATE INDEX metric_blocks_over ON metric_blocks (minutes, ends_at);

-- Bytes that a server received and sent in a month (202611), by the series of the agent that counted them: an agent
-- that was installed again begins a new series, and the series of a month add up. The numbers only rise.
CREATE TABLE traffic_months (
    instance_id TEXT NOT NULL,
    month BIGINT NOT NULL,
    series TEXT NOT NULL,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (instance_id, month, series)
);

CREATE INDEX traffic_months_over ON traffic_months (month);

-- LVM thin pools of a node and how full they are, as its agent told last; JSON. Owner: fleet.
ALTER TABLE nodes ADD COLUMN thin_pools TEXT NOT NULL DEFAULT '[]';
