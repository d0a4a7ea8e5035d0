//! A steady stream of questions in the background.
//!
//! Invariant: every question that was begun is in the report; stopping waits for the last ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::ask::{Tally, ask};
use super::protocol::{Record, Seen, StreamReport, StreamSpec};
use crate::wait::monotonic_ns;

/// A running stream.
#[derive(Debug)]
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Log>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Log {
    tally: Tally,
    report: StreamReport,
    keep_records: bool,
}

impl Stream {
    pub(super) fn start(spec: &StreamSpec) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let log =
            Log { tally: Tally::new(), report: StreamReport::default(), keep_records: spec.keep_records };
        let log = Arc::new(Mutex::new(log));
        let worker = || {
            let (stop, log, spec) = (Arc::clone(&stop), Arc::clone(&log), spec.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun_ns = monotonic_ns();
                    let result = ask(&spec.target);
                    log.lock().unwrap_or_else(PoisonError::into_inner).add(begun_ns, result);
                    if spec.pause_us > 0 {
                        thread::sleep(Duration::from_micros(spec.pause_us));
                    }
                }
            })
        };
        let threads = (0..spec.concurrency.max(1)).map(|_| worker()).collect();
        Self { stop, log, threads }
    }

    pub(super) fn peek(&self) -> StreamReport {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).report()
    }

    pub(super) fn stop(self) -> StreamReport {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a stream's thread does not panic");
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).report()
    }
}

impl Log {
    fn add(&mut self, begun_ns: u64, result: Result<super::protocol::Answer, super::protocol::Failure>) {
        let done_ns = monotonic_ns();
        let (seen, key) = match &result {
            Ok(answer) => (&mut self.report.servers, answer.by.clone()),
            Err(failure) => (&mut self.report.errors, failure.error.clone()),
        };
        seen.entry(key.clone())
            .and_modify(|seen| {
                seen.last_ns = done_ns;
                seen.count += 1;
            })
            .or_insert(Seen { first_ns: done_ns, last_ns: done_ns, count: 1 });
        if self.keep_records {
            let result = if result.is_ok() { Ok(key) } else { Err(key) };
            self.report.records.push(Record { begun_ns, done_ns, result });
        }
        self.tally.add(result);
    }

    fn report(&self) -> StreamReport {
        StreamReport { asked: self.tally.report(), ..self.report.clone() }
    }
}
