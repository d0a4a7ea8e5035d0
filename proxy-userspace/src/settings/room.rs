//! How much the maps are to hold.

use clap::Args;
use proxy_common::layout::{
    AFFINITY_ROWS, DEFAULT_BACKENDS, DEFAULT_FRONTENDS, DEFAULT_SERVICES, SENDER_ROWS, Sets,
};

use crate::{datapath::Memory, plan::Capacity};

/// Room in the maps. Takes effect when they are created.
#[derive(Args, Debug, Clone, Copy)]
pub struct Room {
    /// Room for addresses and ports under which Services answer
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FRONTENDS, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_frontends: u32,
    /// Room for service ports, counted once per IP family
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SERVICES, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_services: u32,
    /// Room for endpoints, counted once per service port
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BACKENDS,
          value_parser = clap::value_parser!(u32).range(1..Sets::MAX_SLOTS as i64))]
    pub max_backends: u32,
    /// Clients whose backend is remembered for `sessionAffinity: ClientIP`, counted once per service port; beyond, who has
    /// not come for longest is forgotten
    #[arg(long, value_name = "N", default_value_t = AFFINITY_ROWS, value_parser = clap::value_parser!(u32).range(LEAST_ROWS..=MOST_ROWS))]
    pub max_affinities: u32,
    /// Endpoints whose Service is remembered for unconnected UDP sockets that talk to several; beyond, who has not been
    /// talked to for longest is forgotten
    #[arg(long, value_name = "N", default_value_t = SENDER_ROWS, value_parser = clap::value_parser!(u32).range(LEAST_ROWS..=MOST_ROWS))]
    pub max_senders: u32,
}

/// Some for each CPU: a map that forgets takes its free rows from lists of its own, one for each CPU.
const LEAST_ROWS: i64 = 1024;
/// The kernel takes all of its memory at once.
const MOST_ROWS: i64 = 1 << 24;

impl Room {
    /// The same, for the plan.
    #[must_use]
    pub fn capacity(self) -> Capacity {
        Capacity { frontends: self.max_frontends, services: self.max_services, backends: self.max_backends }
    }

    /// What programs remember beside flows.
    #[must_use]
    pub fn memory(self) -> Memory {
        Memory { affinities: self.max_affinities, senders: self.max_senders }
    }
}
