//! Our tables against the published schema.
