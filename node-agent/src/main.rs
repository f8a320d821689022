//! Node agent.
fn main() {}
