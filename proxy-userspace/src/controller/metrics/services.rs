//! What became of connections, Service by Service. Looked up when somebody asks, in memory.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};
use proxy_common::layout::Fate;

use crate::{
    cluster::{Cluster, model::ServiceName},
    datapath::counters::FateCounts,
    plan::{
        Planner,
        accounts::{Accounts, Tally},
    },
};

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Services(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    accounts: Accounts,
    counts: Option<FateCounts>,
}

impl Book {
    /// The accounts, and what has been counted.
    fn open(&mut self) -> (&mut Accounts, impl Fn(u32) -> Tally + use<'_>) {
        let counts = &self.counts;
        (&mut self.accounts, move |id| counts.as_ref().map(|counts| counts.of(id)).unwrap_or_default())
    }
}

impl Services {
    /// Begins to count, for that many Services by themselves.
    pub fn begin(&self, counts: FateCounts, most: usize) {
        *self.book() = Book { accounts: Accounts::new(most), counts: Some(counts) };
    }

    /// These Services have been planned.
    pub(crate) fn planned(&self, planner: &Planner, services: &[ServiceName]) {
        let mut book = self.book();
        let (accounts, counted) = book.open();
        for service in services {
            accounts.assign(service, planner.ids(service), &counted);
        }
    }

    /// Forgets Services that are gone, after a plan of everything.
    pub(crate) fn retain(&self, cluster: &Cluster) {
        let mut book = self.book();
        let (accounts, counted) = book.open();
        accounts.retain(|service| cluster.service(service).is_some(), counted);
    }

    /// Does not count a connection that we have just made ourselves.
    pub(crate) fn forgive(&self, id: u32) {
        self.book().accounts.forgive(id, Fate::Connected);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Sums: whoever panicked while adding one up has left it too small.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut book = self.book();
        let (accounts, counted) = book.open();
        accounts.settle(counted);
        let mut totals = accounts.totals().peekable();
        if totals.peek().is_none() {
            return Ok(());
        }
        let help = "What became of who asked for a Service, by outcome";
        let mut metric = encoder.encode_descriptor("service_decisions", help, None, MetricType::Counter)?;
        for (service, tally) in totals {
            write(&mut metric, &service.namespace, &service.name, tally)?;
        }
        // No Service is without a namespace.
        write(&mut metric, "", "other", accounts.others())
    }
}

fn write(metric: &mut MetricEncoder<'_>, namespace: &str, service: &str, tally: &Tally) -> fmt::Result {
    for (fate, count) in Fate::ALL.iter().zip(tally).filter(|(_, count)| **count > 0) {
        let labels = [("namespace", namespace), ("service", service), ("outcome", fate.name())];
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}
