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
    cluster::{Cluster, model::ServiceName, printable::Printable},
    plan::accounts::{Accounts, Tally},
};

/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Services(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    accounts: Accounts,
    /// What has been counted under an id.
    counted: Option<Box<dyn Fn(u32) -> Tally + Send>>,
}

impl fmt::Debug for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.accounts.fmt(f)
    }
}

impl Book {
    /// The accounts, and what has been counted.
    fn open(&mut self) -> (&mut Accounts, impl Fn(u32) -> Tally + use<'_>) {
        let counted = &self.counted;
        (&mut self.accounts, move |id| counted.as_ref().map(|counted| counted(id)).unwrap_or_default())
    }
}

impl Services {
    /// Begins to count, for that many Services by themselves. `counted` says what was counted under an id by now.
    pub fn begin(&self, most: usize, counted: impl Fn(u32) -> Tally + Send + 'static) {
        *self.book() = Book { accounts: Accounts::new(most), counted: Some(Box::new(counted)) };
    }

    /// These Services have these ids.
    pub fn assign<'a>(&self, ids: impl IntoIterator<Item = (&'a ServiceName, &'a [u32])>) {
        let mut book = self.book();
        let (accounts, counted) = book.open();
        for (service, ids) in ids {
            accounts.assign(service, ids, &counted);
        }
    }

    /// Forgets Services that are gone, after a plan of everything.
    pub fn retain(&self, cluster: &Cluster) {
        let mut book = self.book();
        let (accounts, counted) = book.open();
        accounts.retain(|service| cluster.service(service).is_some(), counted);
    }

    /// Does not count a connection that we have just made ourselves.
    pub fn forgive(&self, id: u32) {
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
        let (namespace, service) = (Printable(namespace).to_string(), Printable(service).to_string());
        let labels = [("namespace", &*namespace), ("service", &*service), ("outcome", fate.name())];
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let services = Services::default();
        // Once it is known to be this Service's.
        let counted = Arc::new(Mutex::new(Tally::default()));
        services.begin(9, {
            let counted = Arc::clone(&counted);
            move |_| *counted.lock().expect("nobody panics")
        });
        let evil = ServiceName { namespace: "a\\".into(), name: "b\"} 1\nup 1\r\u{1b}[31m".into() };
        services.assign([(&evil, &[7][..])]);
        counted.lock().expect("nobody panics")[Fate::Connected as usize] = 3;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(services));
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory takes anything");
        let lines: Vec<&str> =
            text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let [line] = &*lines else { panic!("one line is meant: {lines:?}") };
        assert!(line.contains("{namespace=\"a\\\\\",service=\"b\\\"} 1\\\\nup 1"), "{line}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}
