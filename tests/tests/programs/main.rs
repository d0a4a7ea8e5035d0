//! The programs for packets, run one packet at a time: bytes in, bytes out, next to what etherparse says they should be
//! and what the decision in memory decides. What becomes of clients, next to what kube-proxy's rules say.

mod errors;
mod fuzz;
mod malformed;
mod model;
mod names;
mod packet;
mod refusals;
mod stand;
mod translation;
mod twin;
mod walk;
mod world;
