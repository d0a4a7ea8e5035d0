//! The program's life: start, kill, restart, refuse to start; what it says, and what it costs.

mod balancers;
mod budgets;
mod commands;
mod configuration;
mod drift;
mod flows;
mod hooks;
mod life;
mod limits;
mod mistakes;
mod observability;
mod rights;
mod traces;
mod verify;
