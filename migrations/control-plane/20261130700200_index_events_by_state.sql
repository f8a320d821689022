-- Events that were received and are not taken over are looked for every two minutes, among those of months.
CREATE INDEX stripe_events_by_state ON stripe_events (state, received_at);
