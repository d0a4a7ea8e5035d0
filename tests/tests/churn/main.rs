//! Changes under load: no connection fails, none strays, none goes to an endpoint that is gone.
//!
//! Run alone: the rate of changes is kept by the clock.

mod churner;
mod large;
mod load;
mod steady;
