//! Stories from end to end: the real programs as processes, over real sockets, against the simulated
//! outside world. The invariant checker runs at the end of each.

mod browser;
mod browsing;
mod buying;
mod crashing;
mod judging;
mod planting;
mod purchase;
mod support;
