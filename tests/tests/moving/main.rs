//! Moving in and out, next to a real kube-proxy that follows a real API server: what it leaves behind is found, named and
//! removed, and nobody's connections notice that one proxy takes the other's place.

#[path = "../apiserver/objects.rs"]
mod objects;
#[path = "../apiserver/server.rs"]
mod server;

mod leftovers;
mod stage;
mod there_and_back;
mod traffic;
