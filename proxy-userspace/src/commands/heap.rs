//! The process' own memory.

/// Keeps it in one piece. The threads beside the loop drop what the loop has made to tell them; glibc would give each an
/// arena of its own, and what lives long in one keeps what was dropped in between from being used by another. With some
/// thousand changes a second that costs megabytes over minutes (`tests/tests/soak`). To be called before there are threads.
/// Other libcs have one heap by themselves.
pub(super) fn in_one_piece() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a number that the allocator keeps; it takes one as small as that, and then has no other arena.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
