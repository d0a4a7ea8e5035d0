//! Random clusters, what happens to them, and who asks them what. Everything is drawn from small sets, so that things
//! meet: addresses that several Services claim, endpoints in several slices, ports under several numbers.

pub(crate) mod pools;
mod services;
mod slices;
mod steps;

pub(crate) use steps::{Ask, Step, any_history};
