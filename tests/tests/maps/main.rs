//! The map contract: the kernel's maps behave as the in-memory ones do, on which the plan is proven.
//!
//! What the product says of its maps is not believed: every map is read once more by system calls on its pin,
//! and compared byte by byte with a layout written down here.

mod arrays;
mod cells;
mod contract;
mod cost;
mod flows;
mod generations;
mod layout;
mod limits;
mod rig;
mod snapshots;
mod world;
