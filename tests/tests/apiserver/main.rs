//! A real kube-apiserver: what the API says is what the kernel's maps hold, also when the server, the
//! connection or kubeshunt itself goes away in between.
//!
//! All tests but the one about tokens share one server; each has a testbed of its own. kubeshunt runs as the
//! service account of `deploy/base/rbac.yaml`, with the rights of that file and no others.

mod awkward;
mod edges;
mod events;
mod expectation;
mod failover;
mod faults;
mod life;
mod objects;
mod outages;
mod ranges;
mod restart;
mod rights;
mod server;
mod stage;
mod steady;
mod tokens;
mod transitions;
mod variety;
