//! The test harness: clusters from network namespaces and cgroups, on one machine.
//!
//! From the outside in: a [`testbed`] is a LAN with [`node`]s; nodes have pods, which are
//! [`station`]s; at every station runs a [`probe`] that can be a client or a server. [`proxy`] runs
//! the program under test on a node, fed by [`manifests`]; a [`stage`] is all of that at once, for the
//! tests of one node; a [`cluster`] is two nodes, in one of several [`layout`]s, with clients outside.
//! A [`sniffer`] sees what passes a device, and [`craft`] makes packets that no socket would send.
//! [`inspect`] asks the kernel what BPF things there are, [`attached`] which are attached to devices, [`timing`] how
//! long they take, [`pinned`] what is in a map, [`test_run`] runs a program by hand, and [`foreign`] is a program of
//! somebody else's. The rest are the kernel's pieces: [`netns`], [`link`], [`cgroup`], [`bpffs`], [`process`], and the
//! [`janitor`] that removes them.
//!
//! [`apiserver`] runs a real kube-apiserver with its etcd, [`kube_proxy`] a real kube-proxy, and [`kubelet`] runs Pods on
//! a node; [`tools`] are programs of others that read what is shipped.
//!
//! Everything needs root, and says so.

pub mod apiserver;
pub mod attached;
pub mod bpffs;
pub mod cgroup;
pub mod cluster;
pub mod craft;
pub mod foreign;
pub mod inspect;
pub mod janitor;
pub mod kube_proxy;
pub mod kubelet;
pub mod layout;
pub mod link;
pub mod manifests;
pub mod netfilter;
pub mod netns;
pub mod node;
pub mod pinned;
pub mod probe;
pub mod process;
pub mod proxy;
pub mod sniffer;
pub mod stage;
pub mod station;
pub mod test_run;
pub mod testbed;
pub mod timing;
pub mod tools;
pub mod vigil;
pub mod wait;

pub use cluster::Cluster;
pub use janitor::Estate;
pub use kube_proxy::KubeProxy;
pub use layout::Layout;
pub use node::Node;
pub use probe::{Probe, protocol};
pub use proxy::{Kubeshunt, Ready, Setup};
pub use sniffer::Sniffer;
pub use stage::Stage;
pub use station::Station;
pub use testbed::Testbed;
