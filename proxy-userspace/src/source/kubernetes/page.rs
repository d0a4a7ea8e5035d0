//! The wire format of lists and watches, as far as it surrounds objects. No I/O.
//!
//! Objects stay raw text until they are decoded one by one, so that what is wrong with one stays with it, and
//! nothing is held twice.

use std::borrow::Cow;

use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::cluster::change::{Change, Kind, Object, ObjectRef};
use crate::source::decode::{self, Identity};

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Object>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
    /// Where to watch from when this was the last page.
    pub(super) version: String,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: Option<String>,
}

/// Reads a page. What has no version is something else, be it JSON: whoever took `{}` for a list of nothing would let
/// everything go.
pub(super) fn page(kind: Kind, text: &str) -> Result<Page, serde_json::Error> {
    let raw: RawPage<'_> = serde_json::from_str(text)?;
    if raw.metadata.resource_version.is_empty() {
        return Err(de::Error::missing_field("metadata.resourceVersion"));
    }
    let items = raw.items.unwrap_or_default();
    let object = |item: &RawValue| {
        decode::from_text(kind, item.get()).unwrap_or_else(|reject| Object::Unreadable(Box::new(reject)))
    };
    Ok(Page {
        objects: items.into_iter().map(object).collect(),
        next: raw.metadata.r#continue.filter(|token| !token.is_empty()),
        version: raw.metadata.resource_version,
    })
}

/// One line of a watch.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Something happened; the watch may be resumed after it, if a version is known.
    Change(Change, Option<String>),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The server has forgotten what came after our version.
    Expired,
    /// The server ends the watch for another reason.
    Failed(String),
    /// A type of event that does not exist today.
    Unknown(String),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: i64,
    reason: String,
    message: String,
}

/// Reads a line.
pub(super) fn event(kind: Kind, line: &str) -> Result<Event, serde_json::Error> {
    let raw: RawEvent<'_> = serde_json::from_str(line)?;
    let text = raw.object.get();
    if raw.kind == "ERROR" {
        let status: Status = serde_json::from_str(text).unwrap_or_default();
        if status.code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone") {
            return Ok(Event::Expired);
        }
        return Ok(Event::Failed(format!("{} {}: {}", status.code, status.reason, status.message)));
    }
    let identity: Identity = serde_json::from_str(text).unwrap_or_default();
    let version = identity.resource_version().map(str::to_owned);
    Ok(match (&*raw.kind, version) {
        ("ADDED" | "MODIFIED", version) => {
            let change = decode::from_text(kind, text).map_or_else(Change::Unreadable, Change::Applied);
            Event::Change(change, version)
        }
        ("DELETED", version) => {
            let reference: ObjectRef = identity.reference(kind);
            Event::Change(Change::Deleted(reference), version)
        }
        ("BOOKMARK", Some(version)) => Event::Bookmark(version),
        (other, _) => Event::Unknown(other.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_item_does_not_spoil_the_page() {
        let page = page(
            Kind::Service,
            r#"{"metadata":{"resourceVersion":"7","continue":"abc"},"items":[
                {"metadata":{"name":"a"}}, {"metadata":{"name":"b"},"spec":{"ports":7}}, {"metadata":{"name":"c"}}]}"#,
        )
        .expect("a page");
        let names: Vec<String> = page.objects.iter().map(|object| object.reference().name.into()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(matches!(page.objects[1], Object::Unreadable(_)));
        assert_eq!((page.version.as_str(), page.next.as_deref()), ("7", Some("abc")));
    }

    #[test]
    fn the_last_page() {
        for text in [
            r#"{"metadata":{"resourceVersion":"7"},"items":null}"#,
            r#"{"metadata":{"resourceVersion":"7","continue":""}}"#,
        ] {
            let page = page(Kind::Node, text).expect("a page");
            assert_eq!((page.objects.len(), page.next), (0, None), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_is_no_empty_one() {
        for text in
            ["{}", r#"{"items":[]}"#, r#"{"kind":"Status","metadata":{},"status":"Success"}"#, "[]", "<html>"]
        {
            assert!(page(Kind::Service, text).is_err(), "{text}");
        }
    }

    #[test]
    fn events() {
        let read = |text| event(Kind::Service, text).expect("an event");
        let gone = Change::Deleted(ObjectRef::new(Kind::Service, "ns", "a"));
        assert_eq!(
            read(
                r#"{"type":"DELETED","object":{"metadata":{"name":"a","namespace":"ns","resourceVersion":"9"},"spec":7}}"#
            ),
            Event::Change(gone, Some("9".to_owned()))
        );
        assert!(matches!(
            read(r#"{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"9"},"spec":7}}"#),
            Event::Change(Change::Unreadable(_), Some(version)) if version == "9"
        ));
        assert_eq!(
            read(r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"12"}}}"#),
            Event::Bookmark("12".to_owned())
        );
        assert_eq!(read(r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#), Event::Expired);
        assert_eq!(read(r#"{"type":"ERROR","object":{"reason":"Expired"}}"#), Event::Expired);
        assert_eq!(
            read(r#"{"type":"ERROR","object":{"code":500,"reason":"InternalError","message":"etcd"}}"#),
            Event::Failed("500 InternalError: etcd".to_owned())
        );
        assert_eq!(read(r#"{"type":"NOVELTY","object":{}}"#), Event::Unknown("NOVELTY".to_owned()));
        assert!(event(Kind::Service, r#"{"type":"ADDED","obj"#).is_err());
    }
}
