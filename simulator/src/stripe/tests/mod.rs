//! Stories over real sockets: what an integration sees.

mod bench;
mod cancel;
mod checker;
mod crash;
mod faults;
mod idempotency;
mod money;
mod plans;
mod purchase;
mod renewal;
mod shopping;
mod webhooks;
