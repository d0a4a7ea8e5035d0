//! From the text of one manifest file to objects.
//!
//! Input: the text and the file's name. Output: [`Reading`]. No I/O.
//!
//! A file is cut into documents before anything is parsed, so that a broken document costs itself and not the
//! ones after it. That is sound: `---` at the beginning of a line ends a document wherever it stands, even in a
//! quoted or block text.

use serde_json::Value;

use crate::cluster::change::{Kind, Object, ObjectRef};
use crate::cluster::reject::{Problem, Reject};
use crate::source::decode;

/// So many mistakes of a file are told. What comes behind as many is not even read: nobody writes that by hand, and each takes
/// memory and a line of the log.
const MISTAKES: usize = 100;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Objects, each with its place in the file, in the order of the file.
    pub(super) objects: Vec<(Object, String)>,
    /// Everything that is wrong.
    pub(super) rejects: Vec<Reject>,
    /// Objects that are there but did not decode.
    pub(super) unreadable: Vec<ObjectRef>,
    /// Some document is so broken that it could be about any object.
    pub(super) broken: bool,
}

/// Reads a file of that name.
pub(super) fn read(file: &str, text: &str) -> Reading {
    let mut reading = Reading::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file.ends_with(".json") {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        for number in 1.. {
            if reading.is_hopeless(file) {
                break;
            }
            let line = line_at(text, values.byte_offset());
            match values.next() {
                None => break,
                Some(Ok(value)) => reading.take(value, &format!("{file}, document {number}, line {line}")),
                Some(Err(error)) => reading.give_up(file, &format!("document {number}: {error}")),
            }
        }
    } else {
        for (index, (first_line, document)) in documents(text).enumerate() {
            let number = index + 1;
            if reading.is_hopeless(file) {
                break;
            }
            match parse(document) {
                Ok(value) => {
                    reading.take(value, &format!("{file}, document {number}, line {}", first_line + 1))
                }
                Err(error) => {
                    let mut options = serde_saphyr::RenderOptions::default();
                    options.line_offset = u64::try_from(first_line).unwrap_or(u64::MAX);
                    let message = error.render_with_options(options);
                    reading.give_up(file, &format!("document {number}: {message}"));
                }
            }
        }
    }
    reading
}

impl Reading {
    /// A file that could not even be read.
    pub(super) fn unreadable_file(file: &str, message: &str) -> Self {
        let mut reading = Self::default();
        reading.give_up(file, message);
        reading
    }

    /// Whether there is no use in reading on, which is told then.
    fn is_hopeless(&mut self, place: &str) -> bool {
        let is_hopeless = self.rejects.len() >= MISTAKES;
        if self.rejects.len() == MISTAKES {
            self.give_up(place, &format!("{MISTAKES} mistakes are enough; the rest is not read"));
        }
        is_hopeless
    }

    fn give_up(&mut self, file: &str, message: &str) {
        self.broken = true;
        let message = format!("{message}; what the file said before stays in force until this is mended");
        self.rejects.push(manifest_reject(file, message));
    }

    /// Sorts out one document.
    fn take(&mut self, mut document: Value, place: &str) {
        if document.is_null() {
            return; // Only comments, or nothing.
        }
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        if let Some(item_kind) = kind.strip_suffix("List") {
            let items = document.get_mut("items").map(Value::take);
            let Some(Value::Array(items)) = items else {
                return self.give_up(place, "a list without items");
            };
            for (index, mut item) in items.into_iter().enumerate() {
                if self.is_hopeless(place) {
                    break;
                }
                // Items of a typed list need not repeat what the list says.
                if let (Value::Object(fields), false) = (&mut item, item_kind.is_empty()) {
                    fields.entry("kind").or_insert_with(|| item_kind.into());
                    fields.entry("apiVersion").or_insert_with(|| version.clone().into());
                }
                self.take(item, &format!("{place}, item {index}"));
            }
            return;
        }
        let kind = match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => Kind::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
            ("v1", "Node") => Kind::Node,
            ("v1", "Pod") => Kind::Pod,
            ("networking.k8s.io/v1", "ServiceCIDR") => Kind::ServiceCidr,
            ("", _) | (_, "") => return self.give_up(place, "there is no apiVersion or no kind"),
            _ => {
                let message = format!("kind {kind} of {version} is not used by kubeshunt; it is skipped");
                self.rejects.push(manifest_reject(place, message));
                return;
            }
        };
        if !matches!(kind, Kind::Node | Kind::ServiceCidr)
            && let Some(Value::Object(metadata)) = document.get_mut("metadata")
            && metadata.get("namespace").is_none_or(|namespace| namespace.is_null() || namespace == "")
        {
            metadata.insert("namespace".to_owned(), "default".into());
        }
        match decode::from_value(kind, document, place) {
            Ok(object) if object.reference().name.is_empty() => {
                self.give_up(place, "the object has no metadata.name");
            }
            Ok(object) => self.objects.push((object, place.to_owned())),
            Err(reject) => {
                self.broken |= reject.object.name.is_empty();
                self.unreadable.push(reject.object.clone());
                self.rejects.push(reject);
            }
        }
    }
}

fn manifest_reject(place: &str, message: String) -> Reject {
    let object = ObjectRef::new(Kind::Manifest, "", place);
    Reject { object, field: String::new(), problem: Problem::Manifest(message) }
}

fn parse(document: &str) -> Result<Value, serde_saphyr::Error> {
    if document.lines().all(|line| line.trim_start().is_empty() || line.starts_with(['#', '%'])) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! {
        // Ample for ten thousand Services in one List, and still a bound. Aliases are what blows small files
        // up; nobody needs many.
        budget: serde_saphyr::budget! { max_events: 8_000_000, max_nodes: 4_000_000, max_aliases: 1_000 },
        with_snippet: false,
        // A Service may well be called `n` or `on`.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(document, options)
}

/// Cuts YAML text into documents, each with the number of lines before it.
fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    let mut offset = 0;
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker || line_number == 0 {
            cuts.push((line_number, offset));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = cuts.iter().skip(1).map(|(_, start)| *start).chain([text.len()]).collect();
    cuts.into_iter().zip(ends).map(|((line, start), end)| (line, &text[start..end])).filter(
        |(_, document)| {
            // What stands before the first marker is often nothing; it is not a document then.
            !document.trim().is_empty()
        },
    )
}

/// The number of the line in which the first thing after that offset stands.
fn line_at(text: &str, offset: usize) -> usize {
    let rest = text.get(offset..).unwrap_or_default();
    let start = text.len() - rest.trim_start().len();
    1 + text.get(..start).unwrap_or_default().matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1}\n";

    fn names(reading: &Reading) -> Vec<String> {
        reading.objects.iter().map(|(object, place)| format!("{} @ {place}", object.reference())).collect()
    }

    fn messages(reading: &Reading) -> Vec<String> {
        reading.rejects.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documents_of_a_file() {
        let text = format!(
            "# a comment\n---\n{SERVICE}---\n# nothing\n--- # text\n{}---\n{}",
            "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n",
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, namespace: ns}\n",
        );
        let reading = read("a.yaml", &text);
        assert_eq!(messages(&reading), Vec::<String>::new());
        assert_eq!(
            names(&reading),
            [
                "Service default/web @ a.yaml, document 2, line 2",
                "Node n @ a.yaml, document 4, line 9",
                "EndpointSlice ns/s @ a.yaml, document 5, line 13"
            ]
        );
        for text in ["", "\n\n", "---\n", "# x\n", "---\n---\n", "%YAML 1.2\n---\n"] {
            assert!(read("a.yaml", text).objects.is_empty() && !read("a.yaml", text).broken, "{text:?}");
        }
        assert_eq!(names(&read("a.yaml", &SERVICE.replace('\n', "\r\n"))).len(), 1);
    }

    #[test]
    fn json_and_lists() {
        let item = r#"{"metadata":{"name":"web"},"spec":{}}"#;
        let typed = format!(r#"{{"apiVersion":"v1","kind":"ServiceList","items":[{item}]}}"#);
        let plain = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}]}"#;
        let reading = read("a.json", &format!("{typed}\n\n{plain}"));
        assert_eq!(messages(&reading), Vec::<String>::new());
        assert_eq!(
            names(&reading),
            [
                "Service default/web @ a.json, document 1, line 1, item 0",
                "Node n @ a.json, document 2, line 3, item 0"
            ]
        );
    }

    #[test]
    fn a_broken_document_costs_only_itself() {
        let text = format!("{SERVICE}---\nkind: [\n---\n{}", SERVICE.replace("web", "api"));
        let reading = read("a.yaml", &text);
        assert_eq!(reading.objects.len(), 2);
        assert!(reading.broken);
        let message = &messages(&reading)[0];
        assert!(message.starts_with("manifest a.yaml: document 2: "), "{message}");
        assert!(message.contains("line 6") || message.contains("line 7"), "{message}");
        assert!(read("a.json", "{\"kind\":").broken);
    }

    #[test]
    fn an_object_that_does_not_decode_is_named() {
        let reading = read("a.yaml", &SERVICE.replace("clusterIP: 10.0.0.1", "ports: 7"));
        assert_eq!(reading.unreadable, [ObjectRef::new(Kind::Service, "default", "web")]);
        assert!(!reading.broken);
        let message = &messages(&reading)[0];
        assert!(message.starts_with("Service default/web: spec.ports: invalid type"), "{message}");
        assert!(message.contains("(a.yaml, document 1, line 1)"), "{message}");
    }

    #[test]
    fn other_kinds_are_harmless() {
        let reading = read("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n");
        assert!(!reading.broken);
        assert_eq!(
            messages(&reading),
            [
                "manifest a.yaml, document 1, line 1: kind Deployment of apps/v1 is not used by kubeshunt; it is skipped"
            ]
        );
        assert!(read("a.yaml", "metadata: {name: web}\n").broken, "this may have been a Service");
    }

    #[test]
    fn mistakes_come_to_an_end() {
        let item = "{apiVersion: v1, kind: Node, metadata: {name: 7}}";
        for (file, text) in [
            ("a.yaml", "]\n---\n".repeat(100_000)),
            (
                "a.yaml",
                format!("apiVersion: v1\nkind: List\nitems: [{}]\n---\n]\n", vec![item; 1_000].join(", ")),
            ),
            ("a.json", "{}\n".repeat(100_000)),
        ] {
            let reading = read(file, &text);
            assert!(reading.broken, "what was known of it stays");
            assert_eq!(reading.rejects.len(), MISTAKES + 1);
            assert!(messages(&reading)[MISTAKES].contains("100 mistakes are enough"));
        }
    }

    #[test]
    fn bombs_are_defused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(read("a.yaml", &text).broken);
        assert!(read("a.yaml", &"[".repeat(100_000)).broken);
        assert!(read("a.json", &"[".repeat(100_000)).broken);
    }
}
