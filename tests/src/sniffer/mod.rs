//! Sniffers: what really passes a device, seen where the wire would be.
//!
//! The kernel shows incoming frames before any program at the device's ingress has seen them, and outgoing ones
//! after every program at its egress: on a node's `eth0`, that is the LAN.
//!
//! Invariant: a sniffer's memory is bounded, and what it could not see or keep is counted.

pub(crate) mod capture;
pub(crate) mod checksum;
mod packet;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use self::capture::Ring;
pub use self::packet::Packet;
use crate::netns::NetNs;
use crate::wait;

/// How many frames a sniffer keeps at most.
const FRAMES: usize = 20_000;

/// A frame that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From its destination hardware address on.
    pub bytes: Vec<u8>,
    /// Does it leave by this device?
    pub outgoing: bool,
    /// Are its checksums written? A frame between devices that never reach a wire may do without (see
    /// [`Station::offload`](crate::Station::offload)).
    pub checksummed: bool,
}

/// What a sniffer has seen.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The frames that were to be kept.
    pub frames: Vec<Frame>,
    /// How many have passed.
    pub seen: u64,
    /// How many of those passed unseen, or were to be kept and were not.
    pub lost: u64,
}

/// A running sniffer. Dropping it ends it.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    recording: Arc<Mutex<Recording>>,
    thread: Option<JoinHandle<()>>,
}

impl Frame {
    /// Its packet, if it is IP.
    #[must_use]
    pub fn packet(&self) -> Option<Packet<'_>> {
        Packet::of_frame(&self.bytes)
    }

    /// Checksums of it that are wrong: of the packet, and of one it carries through a tunnel.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let Some(packet) = self.packet() else { return Vec::new() };
        let mut faults = packet.faults(self.checksummed);
        if let Some(inner) = packet.tunnelled() {
            faults.extend(inner.faults(self.checksummed).into_iter().map(|fault| format!("{fault} (inner)")));
        }
        faults
    }
}

impl Sniffer {
    /// Records the frames of a device for which `keep` says yes. Whatever passes after this has returned is seen.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn start(
        netns: &NetNs,
        device: &str,
        mut keep: impl FnMut(&Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        let mut ring = netns.run(|| Ring::open(device))?;
        let (stop, recording) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&recording));
        let work = move || {
            loop {
                let last = stopped.load(Ordering::Relaxed);
                match ring.next(|frame| add(&record, frame, &mut keep)) {
                    // All that had passed before the stop has been read.
                    Ok(false) if last => break,
                    Ok(_) => {}
                    // The device is gone.
                    Err(_) => break,
                }
            }
            lock(&record).lost += ring.dropped();
        };
        let thread = std::thread::Builder::new().name("sniffer".into()).spawn(work)?;
        Ok(Self { stop, recording, thread: Some(thread) })
    }

    /// Waits until a frame that it keeps is as wanted.
    ///
    /// # Errors
    /// When none comes.
    pub fn wait_for(&self, what: &str, within: Duration, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        wait::until(what, within, || Ok(lock(&self.recording).frames.iter().find(|f| wanted(f)).cloned()))
    }

    /// Ends it, and tells what it has seen.
    #[must_use]
    pub fn stop(mut self) -> Recording {
        self.end();
        std::mem::take(&mut *lock(&self.recording))
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a sniffer's judgement does not panic");
        }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.end();
    }
}

fn add(recording: &Mutex<Recording>, frame: Frame, keep: &mut impl FnMut(&Frame) -> bool) {
    let kept = keep(&frame);
    let mut recording = lock(recording);
    recording.seen += 1;
    if kept && recording.frames.len() < FRAMES {
        recording.frames.push(frame);
    } else if kept {
        recording.lost += 1;
    }
}

fn lock(recording: &Mutex<Recording>) -> std::sync::MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}
