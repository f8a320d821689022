-- Where an order that waits for its turn on this host is in the queue, as it was told last. Only to be shown: the
-- queue itself follows from the sequences.
CREATE TABLE queue_places (
    order_id      TEXT   PRIMARY KEY REFERENCES orders (order_id) ON DELETE CASCADE,
    position      BIGINT NOT NULL,                 -- 1 is next
    estimate_secs BIGINT,                          -- until its turn, at that time; null: not known
    at            BIGINT NOT NULL
);
