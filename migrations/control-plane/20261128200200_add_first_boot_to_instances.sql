-- instances: what its customer chose for the first boot (JSON: family, recipes, locale, timezone). NULL: nothing.
ALTER TABLE instances ADD COLUMN first_boot TEXT;
