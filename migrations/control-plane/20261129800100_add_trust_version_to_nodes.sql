-- The version of the trust document that the node's agent said it believes; 1 for those that do not say.
ALTER TABLE nodes ADD COLUMN trust_version BIGINT NOT NULL DEFAULT 1;
