//! How much the maps are to hold.

use clap::Args;
use proxy_common::layout::{DEFAULT_BACKENDS, DEFAULT_FRONTENDS, DEFAULT_SERVICES, Sets};

use crate::plan::Capacity;

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
}

impl Room {
    /// The same, for the plan.
    #[must_use]
    pub fn capacity(self) -> Capacity {
        Capacity { frontends: self.max_frontends, services: self.max_services, backends: self.max_backends }
    }
}
