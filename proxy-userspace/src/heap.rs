//! The process' own memory, as far as the allocator is to be told something.
//!
//! Both matter to glibc alone: other libcs have one heap, and give back what is free.

/// Keeps it in one piece. The threads beside the loop drop what the loop has made to tell them; glibc would give each an
/// arena of its own, and what lives long in one keeps what was dropped in between from being used by another. With some
/// thousand changes a second that costs megabytes over minutes (`tests/tests/soak`). To be called before there are threads.
pub(crate) fn in_one_piece() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number that the allocator keeps; it takes one as small as that, and then has no other arena.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what is free, wherever it lies: after a list of everything, which takes as much again as all that is known.
/// Some milliseconds.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
