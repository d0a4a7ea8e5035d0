//! What is shipped, as it is shipped: the image, and the manifests in `deploy/`, against a real kube-apiserver. Pods run
//! from the image on a test node, with the rights, mounts and credentials that their specification gives them.

mod chart;
mod daemon_set;
mod image;
mod kubeadm;
mod manifests;
mod scene;
mod server;
mod workflows;
