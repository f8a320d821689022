-- The journal that a node had before it was enrolled again: if the next one is another, what it had begun is unknown.
ALTER TABLE nodes ADD COLUMN previous_journal_id TEXT;
