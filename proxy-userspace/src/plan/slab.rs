//! Runs of backend slots and service ids: which are free, which wait for the last reader.
//!
//! Best fit over coalesced free runs. What is given back is not free at once: a program that read the old
//! snapshot may still be choosing from it. It waits in limbo until an RCU grace period has passed that began
//! after the map write which unpublished it; see [`Slab::retire`] and [`Slab::release`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proxy_common::layout::Range;

/// Allocator of runs within `0..capacity`.
#[derive(Debug)]
pub struct Slab {
    /// Free runs by start.
    free: BTreeMap<u32, u32>,
    /// The same by length, then start.
    by_len: BTreeSet<(u32, u32)>,
    /// Given back but perhaps still read, oldest first, with the epoch of the plan that gave them back.
    limbo: VecDeque<(u64, Range)>,
    capacity: u32,
    used: u32,
}

impl Slab {
    /// Everything free.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let mut slab = Self {
            free: BTreeMap::new(),
            by_len: BTreeSet::new(),
            limbo: VecDeque::new(),
            capacity,
            used: capacity,
        };
        slab.give_back(Range { start: 0, len: capacity });
        slab
    }

    /// A run of `len` slots, the smallest that fits; `None` when there is none.
    pub fn allocate(&mut self, len: u32) -> Option<Range> {
        if len == 0 {
            return Some(Range { start: 0, len: 0 });
        }
        let &(free_len, start) = self.by_len.range((len, 0)..).next()?;
        self.take(start, free_len);
        if free_len > len {
            self.put(start + len, free_len - len);
        }
        self.used += len;
        Some(Range { start, len })
    }

    /// Takes exactly `range`, for what was found in use; `false` if part of it is taken or out of bounds.
    pub fn claim(&mut self, range: Range) -> bool {
        if range.len == 0 {
            return true;
        }
        let Some((&start, &len)) = self.free.range(..=range.start).next_back() else { return false };
        let (end, free_end) =
            (u64::from(range.start) + u64::from(range.len), u64::from(start) + u64::from(len));
        if end > free_end {
            return false;
        }
        self.take(start, len);
        if range.start > start {
            self.put(start, range.start - start);
        }
        if end < free_end {
            self.put(range.start + range.len, start + len - range.start - range.len);
        }
        self.used += range.len;
        true
    }

    /// Gives `range` back in the plan of `epoch`; it stays unused until [`Slab::release`] of that epoch.
    pub fn retire(&mut self, range: Range, epoch: u64) {
        if range.len > 0 {
            self.limbo.push_back((epoch, range));
        }
    }

    /// A grace period has passed since the plans up to and including `epoch` were carried out.
    pub fn release(&mut self, epoch: u64) {
        while let Some(&(retired, range)) = self.limbo.front()
            && retired <= epoch
        {
            self.limbo.pop_front();
            self.give_back(range);
        }
    }

    /// Whether anything waits for a grace period.
    #[must_use]
    pub fn has_limbo(&self) -> bool {
        !self.limbo.is_empty()
    }

    /// Slots in use or in limbo.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Slots there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn give_back(&mut self, range: Range) {
        self.used -= range.len;
        let (mut start, mut len) = (range.start, range.len);
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.take(before, before_len);
            start = before;
            len += before_len;
        }
        if let Some(&after_len) = self.free.get(&(range.start + range.len)) {
            self.take(range.start + range.len, after_len);
            len += after_len;
        }
        self.put(start, len);
    }

    fn put(&mut self, start: u32, len: u32) {
        self.free.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn take(&mut self, start: u32, len: u32) {
        self.free.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retired_slots_wait_for_their_epoch() {
        let mut slab = Slab::new(4);
        let range = slab.allocate(4).unwrap();
        slab.retire(range, 7);
        assert_eq!(slab.allocate(1), None);
        slab.release(6);
        assert_eq!(slab.allocate(1), None);
        slab.release(7);
        assert_eq!(slab.allocate(4), Some(Range { start: 0, len: 4 }));
    }

    #[test]
    fn claims_do_not_overlap() {
        let mut slab = Slab::new(10);
        assert!(slab.claim(Range { start: 3, len: 4 }));
        assert!(!slab.claim(Range { start: 6, len: 1 }));
        assert!(!slab.claim(Range { start: 9, len: 2 }));
        assert!(!slab.claim(Range { start: u32::MAX, len: u32::MAX }));
        assert!(slab.claim(Range { start: 7, len: 3 }));
        assert_eq!(slab.allocate(4), None);
        assert_eq!(slab.allocate(3), Some(Range { start: 0, len: 3 }));
    }

    proptest! {
        /// Runs handed out never overlap, nothing is lost, and everything coalesces in the end.
        #[test]
        fn allocations_are_disjoint(steps in prop::collection::vec((0u32..40, any::<bool>()), 1..200)) {
            let mut slab = Slab::new(256);
            let mut held: Vec<Range> = Vec::new();
            for (epoch, (len, give)) in (1u64..).zip(steps) {
                if give && !held.is_empty() {
                    slab.retire(held.swap_remove(len as usize % held.len()), epoch);
                    slab.release(epoch);
                } else if let Some(range) = slab.allocate(len) {
                    for other in &held {
                        prop_assert!(range.len == 0 || other.len == 0
                            || range.start + range.len <= other.start
                            || other.start + other.len <= range.start);
                    }
                    held.push(range);
                }
                prop_assert_eq!(slab.used(), held.iter().map(|r| r.len).sum::<u32>());
            }
            for range in held.drain(..) {
                slab.retire(range, u64::MAX);
            }
            slab.release(u64::MAX);
            prop_assert_eq!(slab.allocate(256), Some(Range { start: 0, len: 256 }));
        }
    }
}
