//! A reader of both formats that takes nothing amiss: what it reads, others can read.

use std::collections::{BTreeMap, BTreeSet};

use proxy_userspace::serve::exposition::Format;

type Labels = BTreeMap<String, String>;

/// Upper bounds and what lies below them, and how many there are in all.
type Histogram = (Vec<(f64, f64)>, Option<f64>);

/// What was written.
pub(crate) struct Exposition {
    pub(crate) families: BTreeMap<String, Family>,
}

/// What belongs together.
#[derive(Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

impl Exposition {
    /// Reads a text, or says what is wrong with it.
    pub(crate) fn read(format: Format, text: &str) -> Result<Self, String> {
        let is_open = format == Format::OpenMetrics;
        let text = match (is_open, text.strip_suffix("# EOF\n")) {
            (true, Some(rest)) => rest,
            (true, None) => return Err("it has no end".to_owned()),
            (false, _) => text,
        };
        if !text.ends_with('\n') {
            return Err("the last line has no end".to_owned());
        }
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut current, mut seen) = (String::new(), BTreeSet::new());
        for line in text.lines() {
            let fail = |what: &str| Err(format!("{what}: {line}"));
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return fail("no type") };
                let kinds: &[&str] = if is_open {
                    &["counter", "gauge", "histogram", "info", "unknown"]
                } else {
                    &["counter", "gauge", "histogram", "untyped"]
                };
                if !kinds.contains(&kind) || families.contains_key(name) {
                    return fail("an unknown type, or a second one");
                }
                name.clone_into(&mut current);
                families.insert(current.clone(), Family { kind: kind.to_owned(), samples: Vec::new() });
            } else if line.starts_with("# HELP ") || is_open && line.starts_with("# UNIT ") {
            } else if line.starts_with('#') || line.is_empty() {
                return fail("an unknown comment");
            } else {
                let Some(sample) = Sample::read(line) else { return fail("no sample") };
                let Some(family) = families.get_mut(&current) else { return fail("a sample without a type") };
                if !may_have(is_open, &current, &family.kind, &sample.name) {
                    return fail("a sample of another family");
                }
                if !seen.insert((sample.name.clone(), sample.labels.clone())) {
                    return fail("a second sample of the same name");
                }
                family.samples.push(sample);
            }
        }
        for (name, family) in &families {
            family.check(name)?;
        }
        Ok(Self { families })
    }
}

/// Whether a family may have a sample of that name.
fn may_have(is_open: bool, family: &str, kind: &str, sample: &str) -> bool {
    let Some(suffix) = sample.strip_prefix(family) else { return false };
    match kind {
        "counter" if is_open => suffix == "_total",
        "counter" => suffix.is_empty() && sample.ends_with("_total"),
        "histogram" => matches!(suffix, "_bucket" | "_sum" | "_count"),
        "info" => suffix == "_info",
        _ => suffix.is_empty(),
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        if self.samples.is_empty() {
            return Err(format!("{name} has no samples"));
        }
        if self.samples.iter().any(|sample| sample.name.ends_with("_total") && sample.value < 0.0) {
            return Err(format!("{name} is less than nothing"));
        }
        if self.kind != "histogram" {
            return Ok(());
        }
        let mut of: BTreeMap<Labels, Histogram> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            let entry = of.entry(labels).or_default();
            match bound.map(|bound| bound.parse().unwrap_or(f64::INFINITY)) {
                Some(bound) => entry.0.push((bound, sample.value)),
                None if sample.name.ends_with("_count") => entry.1 = Some(sample.value),
                None => {}
            }
        }
        for (buckets, count) in of.values() {
            let ascending = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
            let last = buckets.last().map(|(bound, value)| (bound.is_infinite(), Some(*value)));
            if !ascending || last != Some((true, *count)) {
                return Err(format!("{name} has wrong buckets"));
            }
        }
        Ok(())
    }
}

impl Sample {
    fn read(line: &str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            while let Some((key, value)) = rest.split_once("=\"") {
                let (value, after) = unquote(value)?;
                if !is_name(key) || labels.insert(key.to_owned(), value).is_some() {
                    return None;
                }
                rest = after;
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}')?;
        }
        let value = rest.strip_prefix(' ')?.parse().ok()?;
        is_name(name).then(|| Self { name: name.to_owned(), labels, value })
    }
}

/// A label's value without its escapes, and what comes behind the closing quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            '\n' => return None,
            other => value.push(other),
        }
    }
    None
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
        && !text.starts_with(|char: char| char.is_ascii_digit())
}
