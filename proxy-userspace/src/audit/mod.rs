//! The audit: where the kernel's maps say something else than they should.
//!
//! Pure. Nobody but this process writes to its maps, but whoever is root can: with bpftool, by a script that cleans up,
//! by mistake. Two look for that:
//!
//! - the running process, at a gentle pace, with [`crate::plan::Planner::sight_frontend`] and its like: the planner's
//!   mirror follows what is seen, and the next plan sets it right;
//! - `kubeshunt verify`, from beside it: what the maps serve ([`served`]) next to what they should.
//!
//! Both speak of what they find as [`Difference`]s.

mod difference;
pub mod served;
#[cfg(test)]
mod tests;

pub use difference::{Difference, properties};
