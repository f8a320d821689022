-- Where an agent cannot look at its servers: when it last could, 0 for never; null while it looks. A sign of life of the
-- agent is no look at a server.
ALTER TABLE nodes ADD COLUMN blind_since BIGINT;
