//! What is written about metrics: the page, the dashboard, the alerts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../deploy/dashboards/kubeshunt.json");
const ALERTS: &str = include_str!("../../../deploy/alerts.yaml");

/// Prefixes of names that are ours to have.
const PREFIXES: [&str; 5] = ["kubeproxy_", "kubeshunt_", "process_", "rest_client_", "kubernetes_build"];

/// A row of the page's tables.
pub(crate) struct Row {
    pub(crate) kind: String,
    pub(crate) labels: BTreeSet<String>,
}

/// The metrics that the page describes: rows of four columns.
pub(crate) fn documented() -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = columns[..] else { continue };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let before = rows.insert(name.trim_matches('`').to_owned(), Row { kind: kind.to_owned(), labels });
        assert!(before.is_none(), "twice: {line}");
    }
    rows
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("the dashboard is JSON")
}

fn alerts() -> Value {
    serde_saphyr::from_str(ALERTS).expect("the alerts are YAML")
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or_else(|| panic!("{field} is no list in {value}"), Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is no text in {value}"))
}

fn rules() -> Vec<Value> {
    let alerts = alerts();
    list(&alerts["spec"], "groups").iter().flat_map(|group| list(group, "rules")).cloned().collect()
}

/// All queries, each with where it stands.
pub(crate) fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = list(&dashboard, "panels").iter().filter(|panel| panel["type"] != "row");
    let of_panels = panels.flat_map(|panel| {
        let targets = list(panel, "targets").iter();
        targets.map(|target| (text(panel, "title").to_owned(), text(target, "expr").to_owned()))
    });
    let variables = list(&dashboard["templating"], "list").iter().filter(|one| one["type"] == "query");
    let of_variables = variables.map(|one| {
        // `label_values(metric, label)`
        let query = text(one, "definition").strip_prefix("label_values(").expect("label_values");
        let (metric, label) = query.trim_end_matches(')').rsplit_once(',').expect("two arguments");
        (text(one, "name").to_owned(), format!("sum by ({}) ({metric})", label.trim()))
    });
    let of_rules =
        rules().into_iter().map(|rule| (text(&rule, "alert").to_owned(), text(&rule, "expr").to_owned()));
    of_panels.chain(of_variables).chain(of_rules).collect()
}

/// The query without what stands in quotes.
fn bare(query: &str) -> String {
    query.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// The metrics that a query asks for.
pub(crate) fn used(query: &str) -> BTreeSet<String> {
    let bare = bare(query);
    let words = bare.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

/// The labels that it selects or groups by.
pub(crate) fn labels(query: &str) -> BTreeSet<String> {
    let bare = bare(query);
    let selected = bare.split('{').skip(1).filter_map(|rest| rest.split_once('}')).flat_map(|(inner, _)| {
        inner.split(',').map(|matcher| matcher.split(['=', '!', '~']).next().unwrap_or_default())
    });
    let grouped = bare
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .flat_map(|(inner, _)| inner.split(','));
    selected.chain(grouped).map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
}

/// Whether every bracket is closed.
pub(crate) fn is_balanced(query: &str) -> bool {
    let bare = bare(query);
    let mut open = Vec::new();
    let closes = |char| match char {
        ')' => Some('('),
        ']' => Some('['),
        '}' => Some('{'),
        _ => None,
    };
    bare.chars().all(|char| {
        if "([{".contains(char) {
            open.push(char);
        }
        closes(char).is_none_or(|opening| open.pop() == Some(opening))
    }) && open.is_empty()
}

/// Whether the dashboard can be taken over as it is: numbers that are one's own, no panel above another.
pub(crate) fn check_dashboard() {
    let dashboard = dashboard();
    assert_eq!((text(&dashboard, "title"), text(&dashboard, "uid")), ("kubeshunt", "kubeshunt"));
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels") {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a place"));
        assert!(x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies above another panel");
        }
        if panel["type"] != "row" {
            assert!(!text(panel, "description").is_empty(), "{title}");
            for target in list(panel, "targets") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
}

/// Whether the alerts are ones that somebody can act on.
pub(crate) fn check_alerts() {
    let alerts = alerts();
    assert_eq!(text(&alerts, "kind"), "PrometheusRule");
    assert_eq!(text(&alerts, "apiVersion"), "monitoring.coreos.com/v1");
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = text(&rule, "alert").to_owned();
        assert!(["critical", "warning", "info"].contains(&text(&rule["labels"], "severity")), "{name}");
        for field in ["summary", "description"] {
            let words = text(&rule["annotations"], field);
            assert!(
                !words.is_empty() && words.matches("{{").count() == words.matches("}}").count(),
                "{name}"
            );
            for label in words.split("$labels.").skip(1) {
                let label = label.split(|char: char| !char.is_ascii_alphanumeric() && char != '_').next();
                let expr = text(&rule, "expr");
                // Where nothing is grouped, all labels are there.
                let is_there = !expr.contains("by (") || labels(expr).contains(label.unwrap_or_default());
                assert!(is_there, "{name}: {label:?}");
            }
        }
        if let Some(time) = rule["for"].as_str() {
            assert!(time.ends_with('m') && time.trim_end_matches('m').parse::<u32>().is_ok(), "{name}");
        }
        assert!(names.insert(name.clone()), "{name} twice");
    }
}
