//! What follows from changes of files, as small stories.

use super::super::document;
use super::*;

fn service(name: &str, ip: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}}}\n")
}

fn web(ip: &str) -> String {
    service("web", ip)
}

/// One line per change.
fn told(changes: &[Change]) -> Vec<String> {
    let tell = |change: &Change| match change {
        Change::Applied(Object::Service(service)) => {
            format!("{}={}", service.metadata.name, service.spec.cluster_ip.as_deref().unwrap_or_default())
        }
        Change::Deleted(reference) => format!("-{}", reference.name),
        Change::Unreadable(Reject { problem: Problem::DefinedTwice { first, second }, .. }) => {
            format!("{first} before {second}")
        }
        Change::Unreadable(_) => "!".to_owned(),
        other => format!("{other:?}"),
    };
    changes.iter().map(tell).collect()
}

/// A ledger and the texts it may want to read again.
#[derive(Default)]
struct Story {
    ledger: Ledger,
    texts: BTreeMap<String, String>,
}

impl Story {
    fn write(&mut self, file: &str, text: &str) -> Vec<String> {
        self.texts.insert(file.to_owned(), text.to_owned());
        let effects = self.ledger.update(file, document::read(file, text));
        self.follow(effects)
    }

    fn remove(&mut self, file: &str) -> Vec<String> {
        let effects = self.ledger.remove(file);
        self.follow(effects)
    }

    fn follow(&mut self, effects: Effects) -> Vec<String> {
        let mut all = told(&effects.changes);
        for file in effects.reread {
            let more = self.ledger.update(&file, document::read(&file, &self.texts[&file]));
            all.extend(self.follow(more));
        }
        all
    }
}

#[test]
fn only_differences_are_sent() {
    let mut story = Story::default();
    assert_eq!(
        story.write("a.yaml", &(web("10.0.0.1") + &service("api", "10.0.0.2"))),
        ["web=10.0.0.1", "api=10.0.0.2"]
    );
    assert_eq!(story.write("a.yaml", &(web("10.0.0.1") + &service("api", "10.0.0.3"))), ["api=10.0.0.3"]);
    assert_eq!(story.write("a.yaml", &service("api", "10.0.0.3")), ["-web"]);
    assert_eq!(story.remove("a.yaml"), ["-api"]);
    assert_eq!(story.remove("a.yaml"), Vec::<String>::new());
}

#[test]
fn a_broken_file_loses_nothing() {
    let mut story = Story::default();
    story.write("a.yaml", &(web("10.0.0.1") + &service("api", "10.0.0.2")));
    assert_eq!(
        story.write("a.yaml", &(service("api", "10.0.0.3") + "---\nkind: [\n")),
        ["!", "api=10.0.0.3"]
    );
    assert_eq!(story.write("a.yaml", "{"), ["!"]);
    assert_eq!(story.write("a.yaml", &web("10.0.0.1")), ["-api"], "mended");
    assert_eq!(story.write("a.yaml", &web("[]")), ["!"], "one object does not decode");
    assert_eq!(story.write("a.yaml", &web("10.0.0.9")), ["web=10.0.0.9"]);
}

#[test]
fn the_first_file_wins() {
    let mut story = Story::default();
    assert_eq!(story.write("b.yaml", &web("10.0.0.2")), ["web=10.0.0.2"]);
    assert_eq!(story.write("c.yaml", &web("10.0.0.3")), ["b.yaml before c.yaml, document 1, line 1"]);
    assert_eq!(
        story.write("a.yaml", &web("10.0.0.1")),
        ["a.yaml before b.yaml", "a.yaml before c.yaml", "web=10.0.0.1"]
    );
    assert_eq!(story.write("b.yaml", &web("10.0.0.22")), ["a.yaml before b.yaml, document 1, line 1"]);
    // The runner-up takes over, with what it says now.
    assert_eq!(story.remove("a.yaml"), ["b.yaml before c.yaml", "web=10.0.0.22"]);
    assert_eq!(story.remove("c.yaml"), Vec::<String>::new());
    assert_eq!(story.remove("b.yaml"), ["-web"]);
}

#[test]
fn twice_in_one_file() {
    let mut story = Story::default();
    assert_eq!(
        story.write("a.yaml", &(web("10.0.0.1") + &web("10.0.0.2"))),
        ["web=10.0.0.1", "a.yaml before a.yaml, document 2, line 6"]
    );
}

#[test]
fn lists_come_from_what_was_sent() {
    let mut ledger = Ledger::default();
    let mut changes = Vec::new();
    for (file, text) in [
        ("a.yaml", web("10.0.0.1")),
        ("b.yaml", web("10.0.0.2") + "---\n{"),
        ("c.yaml", service("api", "10.0.0.3")),
    ] {
        changes.extend(ledger.update(file, document::read(file, &text)).changes);
    }
    let all = lists(changes);
    assert_eq!(told(&all[..2]), ["!", "a.yaml before b.yaml, document 1, line 1"]);
    let Change::Listed(Kind::Service, services) = &all[5] else { panic!("{all:?}") };
    assert_eq!(services.len(), 2);
    assert_eq!(all[2], Change::Listed(Kind::Node, vec![]));
    assert_eq!(all[3], Change::Listed(Kind::ServiceCidr, vec![]));
    assert_eq!(all[4], Change::Listed(Kind::Pod, vec![]));
    assert_eq!(all[6], Change::Listed(Kind::EndpointSlice, vec![]));
}
