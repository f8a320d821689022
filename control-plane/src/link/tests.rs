//! The link as an agent meets it: a QUIC client of its own, over the loopback interface.

mod challenge;
mod client;
mod doors;
mod enrolment;
mod falls;
mod size;
mod talk;
mod two;
