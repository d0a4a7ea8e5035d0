//! What the user said about sockets whose endpoint is gone.

use clap::Args;

/// Connected sockets.
#[derive(Args, Debug, Clone, Copy)]
pub struct Sockets {
    /// Reset TCP connections of this node's pods and processes to a Service's endpoints that were removed altogether, so
    /// that none of the Service's EndpointSlices names them any more; by default they are left to time out. Connected UDP
    /// sockets are always woken
    #[arg(long)]
    pub reset_connections_to_removed_endpoints: bool,
}
