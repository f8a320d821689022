-- Whoever has a signing key can have tens of thousands of orders refused, each of which is remembered: noting one more must
-- not read them all, whatever their ids are.
DROP INDEX refused_by_order;
CREATE INDEX refused_by_payload ON refused (order_id, payload_hash);
CREATE INDEX refused_by_end ON refused (final, keep_until);
-- How many final ones there are, counted along.
ALTER TABLE meta ADD COLUMN final_refusals BIGINT NOT NULL DEFAULT 0;
UPDATE meta SET final_refusals = (SELECT COUNT(*) FROM refused WHERE final = 1);
