//! Stories over real sockets: what an integration sees.

mod balance;
mod bench;
mod cancel;
mod checker;
mod collection;
mod crash;
mod faults;
mod idempotency;
mod money;
mod pauses;
mod plans;
mod purchase;
mod renewal;
mod shopping;
mod warnings;
mod webhooks;
