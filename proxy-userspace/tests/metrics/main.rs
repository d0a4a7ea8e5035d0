//! Metrics as they are written, documented and used: all names and labels in the registry, in `docs/metrics.md`, in the
//! dashboard and in the alerts are the same.

mod documents;
mod exposition;
mod registry;

use std::collections::BTreeSet;

use proxy_userspace::serve::exposition::Format;

use exposition::{Exposition, Family};

const NASTY: &str = registry::NASTY;

/// What is written in a format, read again.
fn read(format: Format) -> Exposition {
    let text = format.of(registry::full().open_metrics());
    Exposition::read(format, &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn both_formats_can_be_read_and_say_the_same() {
    let (text, open_metrics) = (read(Format::Text), read(Format::OpenMetrics));
    let names = |exposition: &Exposition| {
        let samples = exposition.families.values().flat_map(|family| &family.samples);
        samples.map(|sample| (sample.name.clone(), sample.labels.clone())).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&text), names(&open_metrics));
    assert_eq!(text.families["kubeshunt_sync_operations_total"].kind, "counter");
    assert_eq!(open_metrics.families["kubeshunt_sync_operations"].kind, "counter");
    assert_eq!(text.families["kubernetes_build_info"].kind, "gauge");
}

#[test]
fn labels_hold_whatever_a_name_holds() {
    for format in [Format::Text, Format::OpenMetrics] {
        let all = read(format);
        let samples = all.families.values().flat_map(|family| &family.samples);
        let values: BTreeSet<_> = samples.filter_map(|sample| sample.labels.get("service")).collect();
        // No control characters in what people look at; all else is the format's to escape.
        let shown = NASTY.replace('\n', "\\n");
        assert!(values.contains(&shown), "{values:?}");
    }
}

#[test]
fn kube_proxys_metrics_have_its_labels_and_buckets() {
    let all = read(Format::Text);
    let bounds = |name: &str| {
        let of = all.families[name].samples.iter().filter_map(|sample| sample.labels.get("le"));
        of.cloned().collect::<BTreeSet<_>>().len()
    };
    assert_eq!(bounds("kubeproxy_sync_proxy_rules_duration_seconds"), 15 + 1);
    assert_eq!(bounds("kubeproxy_network_programming_duration_seconds"), 2 + 59 + 12 + 7 + 1);
    let gauge = &all.families["kubeproxy_sync_proxy_rules_no_local_endpoints_total"];
    assert_eq!(gauge.kind, "gauge");
    assert_eq!(labels(gauge), ["ip_family", "traffic_policy"].map(str::to_owned).into());
}

/// The names of a family's labels; a histogram's bounds are none.
fn labels(family: &Family) -> BTreeSet<String> {
    let names = family.samples.iter().flat_map(|sample| sample.labels.keys());
    names.filter(|name| *name != "le").cloned().collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let all = read(Format::Text);
    let documented = documents::documented();
    let is: BTreeSet<_> = all.families.keys().cloned().collect();
    let said: BTreeSet<_> = documented.keys().cloned().collect();
    assert_eq!(is.difference(&said).collect::<Vec<_>>(), Vec::<&String>::new(), "not in docs/metrics.md");
    assert_eq!(said.difference(&is).collect::<Vec<_>>(), Vec::<&String>::new(), "in docs/metrics.md only");
    for (name, row) in documented {
        let family = &all.families[&name];
        assert_eq!((row.kind, row.labels), (family.kind.clone(), labels(family)), "{name}");
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let all = read(Format::Text);
    let mut asked = 0;
    for (place, query) in documents::queries() {
        for used in documents::used(&query) {
            asked += 1;
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| used.strip_suffix(suffix));
            let family = all
                .families
                .get(&used)
                .or_else(|| all.families.get(bare?).filter(|family| family.kind == "histogram"));
            assert!(family.is_some(), "{place}: there is no {used}: {query}");
        }
        let known: BTreeSet<String> = documents::used(&query)
            .iter()
            .flat_map(|used| {
                let bare = used.trim_end_matches("_bucket");
                all.families.get(used).or_else(|| all.families.get(bare)).map(labels).unwrap_or_default()
            })
            // What Prometheus adds, and the bounds of histograms.
            .chain(["job", "instance", "le"].map(str::to_owned))
            .collect();
        for label in documents::labels(&query) {
            assert!(known.contains(&label), "{place}: nothing there has the label {label}: {query}");
        }
        assert!(documents::is_balanced(&query), "{place}: {query}");
    }
    assert!(asked > 40, "{asked}");
}

#[test]
fn the_dashboard_and_the_alerts_are_whole() {
    documents::check_dashboard();
    documents::check_alerts();
}
