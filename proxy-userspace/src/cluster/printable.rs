//! Text that others wrote, on one line of ours.
//!
//! Names come from manifests and from whoever may write to the API. A line feed in one could forge a line of the
//! log, an escape sequence could take over the terminal that shows it, and a change of direction could make a
//! name look like another.

use std::fmt::{self, Write as _};

/// Displays a text with whatever is no visible character escaped as in Rust source.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| {
            if misleads(char) { write!(f, "{}", char.escape_default()) } else { f.write_char(char) }
        })
    }
}

/// Control characters, line and paragraph separators, and the controls of the direction of writing.
fn misleads(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use crate::cluster::{
        change::{Kind, ObjectRef},
        model::{Family, Protocol, ServiceName},
        reject::{Problem, Reject},
    };
    use crate::tables::PortName;

    const EVIL: &str = "a\nb\r\u{1b}[31m\u{9b}0m\u{2028}\u{202e}\u{7f}";

    fn is_tame(text: &str) {
        assert!(!text.chars().any(super::misleads), "{text:?}");
        assert!(text.contains("a\\nb\\r\\u{1b}[31m\\u{9b}0m\\u{2028}\\u{202e}\\u{7f}"), "{text:?}");
    }

    #[test]
    fn nothing_displayed_breaks_out_of_its_line() {
        let object = ObjectRef::new(Kind::Service, EVIL, EVIL);
        let service = ServiceName { namespace: EVIL.into(), name: EVIL.into() };
        is_tame(&object.to_string());
        is_tame(&service.to_string());
        let port = PortName { service, port: EVIL.into(), protocol: Protocol::Tcp, family: Family::V4 };
        is_tame(&port.to_string());
        for problem in [
            Problem::InvalidAddress(EVIL.to_owned()),
            Problem::Undecodable(EVIL.to_owned()),
            Problem::Manifest(EVIL.to_owned()),
            Problem::DefinedTwice { first: EVIL.to_owned(), second: EVIL.to_owned() },
        ] {
            is_tame(&Reject { object: object.clone(), field: EVIL.to_owned(), problem }.to_string());
        }
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        let text = "kube-system/kube-dns:Grüße, 世界 \"quoted\" \\";
        assert_eq!(super::Printable(text).to_string(), text);
    }
}
