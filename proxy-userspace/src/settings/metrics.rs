//! What is counted.

use clap::Args;

/// Which metrics there are.
#[derive(Args, Debug, Clone)]
pub struct Metrics {
    /// How many Services have metrics of their own; those of the rest are put together. 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub service_metrics: usize,
}
