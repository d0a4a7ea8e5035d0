//! Changes under load: no connection fails, none strays, none goes to an endpoint that is gone.
//!
//! Run alone, on a machine that is not starved: the rate of changes is kept by the clock, and an endpoint's
//! removal has a deadline. Two busy loops beside it on two processors keep kubeshunt from running for seconds
//! (`run_delay` in /proc/PID/schedstat shows it), and then these tests fail for no fault of its own.

mod churner;
mod large;
mod load;
mod steady;
