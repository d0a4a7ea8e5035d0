//! What a connect() gets: TCP, and UDP sockets that connect.

use super::{Caller, Destination, Outcome, Tables, choice, frontend};
use crate::layout::{Fate, Origin, origin_flag};

/// Decides a connect() and keeps the socket's origin.
#[inline(always)]
pub fn connect(tables: &impl Tables, caller: &impl Caller, destination: &Destination) -> Outcome {
    let Some(frontend) = frontend::find(tables, caller, destination) else {
        // A socket may connect anew, this time to no Service.
        caller.forget_origin();
        return Outcome::Pass;
    };
    if caller.is_left_to_packets() {
        caller.forget_origin();
        return Outcome::Pass;
    }
    let chosen = match choice::choose(tables, caller, &frontend, caller.random()) {
        Ok(chosen) => chosen,
        Err(other) => {
            match other.fate() {
                Some(fate) => tables.tally(frontend.service, fate),
                None => caller.forget_origin(),
            }
            return other;
        }
    };
    // It does not choose again; but it is to be told when its backend is gone.
    let origin = chosen.origin(destination, &frontend, caller.cookie());
    let origin = Origin { flags: origin_flag::CONNECTED, ..origin };
    // Without memory the connection works all the same; only getpeername() tells the backend's address, and nobody tells
    // it that the backend is gone.
    caller.keep_origin(&origin.sealed());
    tables.tally(frontend.service, Fate::Connected);
    Outcome::Translate(chosen.backend.address, chosen.backend.port)
}
