//! Thousands of connections are at rest most of the time: what each keeps room for counts.

use std::sync::Arc;

use quinn::Connecting;

use crate::{
    link::{connection, endpoint::Shared},
    shares::Share,
};

/// Bytes of the future that a function makes.
fn size<F>(_: impl Fn(Arc<Shared>, Connecting, Share<u128>) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_connection_at_rest_takes_little_room() {
    let bytes = size(connection::serve);
    println!("the task of a connection: {bytes} bytes");
    assert!(bytes <= 4 * 1024, "{bytes} bytes: box what is done seldom");
}
