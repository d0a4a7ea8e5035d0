//! A reader that is never told anything, while the endpoints change as fast as they can.
//!
//! What programs rely on: the slots of the `sets` word they read carry that snapshot's backends, for as long as
//! no grace period ends that began after the word was replaced. Snapshots are told apart by their number, which
//! all addresses of their backends hold.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::pinned::PinnedMap;
use proxy_common::layout::{Backend, Sets, map};
use proxy_userspace::datapath::kernel;
use proxy_userspace::plan::{Capacity, Extent, Operation, Planner};

use super::rig::Rig;
use super::world::{backend, service, sorted, table, vip};

const CAPACITY: Capacity = Capacity { frontends: 16, services: 16, backends: 1 << 18 };

/// Snapshot lengths take turns, so that a word comes back after so many changes at the earliest.
const LENGTHS: u32 = 40;

/// Changes without the end of a grace period before the writer waits for one: more would not fit.
const AHEAD: u32 = 4_000;

fn length(snapshot: u32) -> u16 {
    u16::try_from(1 + snapshot % LENGTHS).expect("at most 40")
}

fn local_length(snapshot: u32) -> u16 {
    u16::try_from(snapshot % 3).expect("at most 2")
}

/// Backend `index` of a snapshot.
fn member(snapshot: u32, index: u16) -> Backend {
    let [high, low] = [snapshot >> 16, snapshot & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    backend(Ipv6Addr::new(0xfd00, 0, 0, 0, high, low, 0, index))
}

/// What writer and reader let each other know.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Snapshots published.
    published: AtomicU32,
    /// Releases begun: from then on, slots given up may be written to.
    released: AtomicU32,
}

/// Sets a flag at the end of a scope, also when that comes by a panic.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// What the reader saw.
#[derive(Debug, Default)]
struct Seen {
    /// Reads between which the word was the same.
    unchanged: u64,
    /// Reads during which it was replaced, but no slots were released.
    replaced: u64,
    /// Reads that prove nothing.
    void: u64,
    slots: u64,
}

/// Reads until told to stop.
fn read(id: u32, services: &PinnedMap, backends: &PinnedMap, shared: &Shared) -> Result<Seen> {
    let mut seen = Seen::default();
    let sets = || -> Result<Sets> {
        let bytes = services.element_at(id)?;
        Ok(Sets(u64::from_ne_bytes(bytes[..8].try_into()?)))
    };
    while !shared.stop.load(SeqCst) {
        let (released, published) = (shared.released.load(SeqCst), shared.published.load(SeqCst));
        let before = sets()?;
        let all = before.all();
        let slots: Vec<_> =
            (all.start..all.start + all.len).map(|slot| backends.element_at(slot)).collect::<Result<_>>()?;
        let is_unchanged = sets()? == before;
        // A word that was replaced so often may have come back.
        let is_unchanged = is_unchanged && shared.published.load(SeqCst) < published + LENGTHS;
        if is_unchanged {
            seen.unchanged += 1;
        } else if shared.released.load(SeqCst) == released {
            seen.replaced += 1;
        } else {
            seen.void += 1;
            continue;
        }
        seen.slots += u64::from(all.len);
        judge(before, &slots, is_unchanged)?;
    }
    Ok(seen)
}

/// Wants exactly the backends of one snapshot, in the shape that the word says.
fn judge(sets: Sets, slots: &[Vec<u8>], is_unchanged: bool) -> Result<()> {
    let numbers = |slot: &Vec<u8>| -> (u32, u16) {
        let number = u32::from_be_bytes([slot[8], slot[9], slot[10], slot[11]]);
        (number, u16::from_be_bytes([slot[14], slot[15]]))
    };
    let found: Vec<_> = slots.iter().map(numbers).collect();
    let (snapshot, _) = *found.first().context("no snapshot is empty")?;
    let told = || format!("{sets:?} (unchanged: {is_unchanged}) leads to {found:?}");
    ensure!(found.iter().all(|(number, _)| *number == snapshot), "{}", told());
    let (cluster, local) = found.split_at(sets.cluster().len as usize);
    for (part, length) in [(cluster, length(snapshot)), (local, local_length(snapshot))] {
        let mut members: Vec<_> = part.iter().map(|(_, index)| *index).collect();
        members.sort_unstable();
        ensure!(members == (0..length).collect::<Vec<_>>(), "{}", told());
    }
    Ok(())
}

/// Publishes snapshots, and releases slots as the controller does: by grace periods beside the changes.
struct Writer<'a> {
    rig: &'a mut Rig,
    planner: Planner,
    shared: &'a Shared,
    grace: Option<(u64, JoinHandle<Result<()>>)>,
    graces: u32,
    /// Ends of the runs that have been written, by start.
    written: std::collections::BTreeSet<u32>,
    reused: u32,
}

impl Writer<'_> {
    fn publish(&mut self, snapshot: u32) -> Result<()> {
        let members = |length| sorted((0..length).map(|index| member(snapshot, index)).collect());
        let mut port = table(0, vip(Ipv4Addr::new(10, 96, 0, 1), 80), members(length(snapshot)));
        port.local = members(local_length(snapshot));
        let desired = vec![(service(0), vec![port])];
        let plan = self.planner.plan(self.rig.datapath().backends(), desired, Extent::Changes);
        assert_eq!(plan.problems, []);
        self.rig.datapath().carry_out(&plan.operations)?;
        for operation in &plan.operations {
            if let Operation::WriteBackends { start, .. } = operation {
                self.reused += u32::from(!self.written.insert(*start));
            }
        }
        self.shared.published.store(snapshot + 1, SeqCst);
        Ok(())
    }

    /// Begins a grace period when something waits for one, and releases when one has ended.
    fn tend(&mut self, wait: bool) -> Result<()> {
        if let Some((epoch, thread)) = self.grace.take_if(|(_, thread)| wait || thread.is_finished()) {
            thread.join().expect("the thread does not panic")?;
            self.shared.released.fetch_add(1, SeqCst);
            self.planner.release(epoch);
            self.graces += 1;
        }
        if self.grace.is_none()
            && let Some(epoch) = self.planner.awaits_grace()
        {
            self.grace = Some((epoch, thread::spawn(kernel::grace_period)));
        }
        Ok(())
    }
}

#[test]
fn a_reader_always_finds_the_snapshot_it_was_sent_to() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let (services, backends) = (rig.pinned(map::SERVICES)?, rig.pinned(map::BACKENDS)?);
    let shared = Shared::default();
    let mut writer = Writer {
        planner: Planner::new(CAPACITY),
        rig: &mut rig,
        shared: &shared,
        grace: None,
        graces: 0,
        written: std::collections::BTreeSet::new(),
        reused: 0,
    };
    writer.publish(0)?;
    let id = writer.planner.id(&table(0, vip(Ipv4Addr::new(10, 96, 0, 1), 80), Vec::new()).name);
    let id = id.context("the Service has an id")?;
    let begin = Instant::now();
    let (seen, snapshots) = thread::scope(|scope| {
        let reader = scope.spawn(|| read(id, &services, &backends, &shared));
        let stop = StopAtEnd(&shared.stop);
        let (mut snapshot, mut last_release) = (1, 0);
        // A reader that has found something wrong ends early.
        while !reader.is_finished() && (writer.graces < 100 || begin.elapsed() < Duration::from_secs(3)) {
            assert!(begin.elapsed() < Duration::from_secs(60), "only {} grace periods", writer.graces);
            writer.publish(snapshot)?;
            let graces = writer.graces;
            writer.tend(snapshot - last_release > AHEAD)?;
            if writer.graces > graces {
                last_release = snapshot;
            }
            snapshot += 1;
        }
        drop(stop);
        anyhow::Ok((reader.join().expect("the reader does not panic")?, snapshot))
    })?;
    if let Some((_, thread)) = writer.grace.take() {
        thread.join().expect("the thread does not panic")?;
    }
    println!(
        "{snapshots} snapshots in {:?}, {} grace periods, {} runs of slots written again; the reader: {seen:?}",
        begin.elapsed(),
        writer.graces,
        writer.reused
    );
    assert!(writer.reused > 0, "no slot was ever used again");
    assert!(seen.unchanged + seen.replaced > 100, "the reader hardly read: {seen:?}");
    Ok(())
}
