//! From wire formats to slim objects, shared by all sources.
//!
//! Input: anything serde reads (JSON text, a JSON value made of YAML). Output: an [`Object`], or a reject that
//! names the object as well as possible and the field that did not fit.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::change::{Kind, Object, ObjectRef};
use crate::cluster::reject::{Problem, Reject};

/// The parts of an object that identify it, read on their own when the whole does not decode.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Identity {
    #[serde(default)]
    metadata: IdentityMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityMetadata {
    #[serde(default)]
    name: Value,
    #[serde(default)]
    namespace: Value,
    #[serde(default)]
    resource_version: Value,
}

impl Identity {
    /// Which object it is; a name that is missing or not a text is empty.
    pub(super) fn reference(&self, kind: Kind) -> ObjectRef {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ObjectRef::new(kind, &text(&self.metadata.namespace), &text(&self.metadata.name))
    }

    /// The resource version, if it has one.
    pub(super) fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_str()
    }
}

/// Decodes JSON text.
pub(super) fn from_text(kind: Kind, text: &str) -> Result<Object, Reject> {
    match kind {
        Kind::Service => typed_text(text).map(Object::Service),
        Kind::EndpointSlice => typed_text(text).map(Object::EndpointSlice),
        Kind::Node => typed_text(text).map(Object::Node),
        Kind::Pod => typed_text(text).map(Object::Pod),
        Kind::ServiceCidr => typed_text(text).map(Object::ServiceCidr),
        Kind::Manifest => Err((String::new(), "a manifest is not an object".to_owned())),
    }
    .map_err(|(field, message)| {
        let identity: Identity = serde_json::from_str(text).unwrap_or_default();
        Reject { object: identity.reference(kind), field, problem: Problem::Undecodable(message) }
    })
}

/// Decodes a JSON value. Unlike [`from_text`] it knows no line numbers, so the caller adds where the value is.
pub(super) fn from_value(kind: Kind, value: Value, place: &str) -> Result<Object, Reject> {
    let identity: Identity = serde_json::from_value(identity_only(&value)).unwrap_or_default();
    match kind {
        Kind::Service => typed_value(value).map(Object::Service),
        Kind::EndpointSlice => typed_value(value).map(Object::EndpointSlice),
        Kind::Node => typed_value(value).map(Object::Node),
        Kind::Pod => typed_value(value).map(Object::Pod),
        Kind::ServiceCidr => typed_value(value).map(Object::ServiceCidr),
        Kind::Manifest => Err((String::new(), "a manifest is not an object".to_owned())),
    }
    .map_err(|(field, message)| Reject {
        object: identity.reference(kind),
        field,
        problem: Problem::Undecodable(format!("{message} ({place})")),
    })
}

/// A field path and what is wrong there.
type Misfit = (String, String);

fn typed_text<T: DeserializeOwned>(text: &str) -> Result<Box<T>, Misfit> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
        .map(Box::new)
        .map_err(misfit)
}

fn typed_value<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Misfit> {
    serde_path_to_error::deserialize(value).map(Box::new).map_err(misfit)
}

fn misfit(error: serde_path_to_error::Error<serde_json::Error>) -> Misfit {
    let path = error.path().to_string();
    // The path is "." when the trouble is with the whole.
    (if path == "." { String::new() } else { path }, error.into_inner().to_string())
}

/// `metadata` without its labels and the like, cheap to copy.
fn identity_only(value: &Value) -> Value {
    let of = |field: &str| value.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
    serde_json::json!({"metadata": {"name": of("name"), "namespace": of("namespace")}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misfit_names_object_and_field() {
        let text =
            r#"{"metadata":{"name":"web","namespace":"ns"},"spec":{"ports":[{"port":80},{"port":"http"}]}}"#;
        let reject = from_text(Kind::Service, text).expect_err("a port is a number");
        assert_eq!(
            reject.to_string(),
            "Service ns/web: spec.ports[1].port: invalid type: string \"http\", expected i64 at line 1 column 87; \
             the last good version of the object, if any, stays"
        );
        let value = serde_json::from_str(text).expect("JSON");
        let reject = from_value(Kind::Service, value, "a.yaml, document 2").expect_err("a port is a number");
        assert_eq!(
            reject.to_string(),
            "Service ns/web: spec.ports[1].port: invalid type: string \"http\", expected i64 (a.yaml, document 2); \
             the last good version of the object, if any, stays"
        );
    }

    /// On a stack as small as a thread's.
    #[test]
    fn nesting_without_bottom_is_passed_over_or_a_reject() {
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
        for deep in [deep("[", "]"), deep("{\"a\":", "}").replace(":}", ":0}")] {
            let strange = format!("{{\"metadata\":{{\"name\":\"a\"}},\"unknown\":{deep}}}");
            let object = from_text(Kind::Service, &strange);
            assert!(
                object.is_ok_and(|object| &*object.reference().name == "a"),
                "nobody asks for what is in it"
            );
            for text in [
                format!("{{\"metadata\":{{\"name\":{deep}}}}}"),
                format!("{{\"metadata\":{{\"name\":\"a\"}},\"spec\":{{\"ports\":{deep}}}}}"),
            ] {
                assert!(from_text(Kind::Service, &text).is_err());
            }
        }
    }

    #[test]
    fn even_nonsense_is_only_a_reject() {
        for text in ["7", "null", "{", r#"{"metadata":7}"#, r#"{"metadata":{"name":7}}"#] {
            let reject = from_text(Kind::Node, text).expect_err(text);
            assert_eq!(reject.object, ObjectRef::new(Kind::Node, "", ""), "{text}");
        }
    }
}
