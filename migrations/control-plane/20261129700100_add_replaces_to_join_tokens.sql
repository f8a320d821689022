-- A token that may move its node to another machine: made so by an operator who knows that it moves.
ALTER TABLE join_tokens ADD COLUMN replaces INTEGER NOT NULL DEFAULT 0;
