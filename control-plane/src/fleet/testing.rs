//! Fleets for tests.
