-- Whether an operator had cordoned a node when it was quarantined or revoked: enrolled again, it is cordoned as before.
ALTER TABLE nodes ADD COLUMN was_cordoned INTEGER NOT NULL DEFAULT 0;
