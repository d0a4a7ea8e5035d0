//! The file: YAML or JSON, read as leniently as kube-proxy does, and written as it does.
//!
//! kube-proxy decodes strictly first, and leniently if that failed for a field that it does not know or that is there
//! twice (`loadConfig`). So the same file may hold our own settings: it does not know their stanza.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{Options, options::DuplicateKeyPolicy};

use super::{
    KubeProxyConfiguration,
    v1alpha1::{API_VERSION, KIND},
};

/// The stanza that is ours: the names of our flags in camelCase, and their values.
pub const STANZA: &str = "kubeshunt";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// What it tells kube-proxy, without defaults.
    pub configuration: KubeProxyConfiguration,
    /// What it tells us alone.
    pub stanza: BTreeMap<String, Value>,
    /// What is wrong with it, but tolerated.
    pub tolerated: Vec<String>,
}

/// Why a file cannot be read: where, which field, what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ours {
    kubeshunt: Option<BTreeMap<String, Value>>,
}

/// Reads the text of a file.
///
/// # Errors
/// When it is no YAML, of another kind, or has a value of a wrong type.
pub fn read(text: &str) -> Result<Document, Unreadable> {
    let (head, _) = typed::<Head>(text, Truth::OfYaml11)?;
    let (kind, version) = (head.kind.unwrap_or_default(), head.api_version.unwrap_or_default());
    if (kind.as_str(), version.as_str()) != (KIND, API_VERSION) {
        let found = match (kind.as_str(), version.as_str()) {
            ("", "") => "there is neither kind nor apiVersion".to_owned(),
            (kind, "") => format!("the kind is {kind:?}, and there is no apiVersion"),
            ("", version) => format!("the apiVersion is {version:?}, and there is no kind"),
            _ => format!("this is a {kind} of {version}"),
        };
        return Err(Unreadable(format!("{found}; it has to be kind: {KIND}, apiVersion: {API_VERSION}")));
    }
    let (configuration, unknown) = typed::<KubeProxyConfiguration>(text, Truth::OfYaml11)?;
    let (ours, _) = typed::<Ours>(text, Truth::OfYaml12)?;
    let unknown = unknown.into_iter().filter(|field| field.split('.').next() != Some(STANZA));
    let mut tolerated: Vec<String> = unknown.map(|field| format!("unknown field {field:?}")).collect();
    tolerated.extend(duplicate(text));
    Ok(Document { configuration, stanza: ours.kubeshunt.unwrap_or_default(), tolerated })
}

/// Writes a configuration as `--write-config-to` does: keys in order of the alphabet.
///
/// # Errors
/// Never for what can be built: there is no value in it that YAML lacks.
pub fn write(configuration: &KubeProxyConfiguration) -> Result<String, Unreadable> {
    let failed = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let value = serde_json::to_value(configuration).map_err(|error| failed(&error))?;
    let text = serde_saphyr::to_string(&value).map_err(|error| failed(&error))?;
    Ok(text)
}

/// The value, and the paths of what was not asked for.
fn typed<'de, T: Deserialize<'de> + Default>(
    text: &'de str,
    truth: Truth,
) -> Result<(T, Vec<String>), Unreadable> {
    // An empty document is null.
    if text.lines().all(|line| line.trim_start().is_empty() || line.starts_with(['#', '%'])) {
        return Ok((T::default(), Vec::new()));
    }
    let mut ignored = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(
        text,
        options(DuplicateKeyPolicy::LastWins, truth),
        |deserializer| {
            let tracked = serde_path_to_error::Deserializer::new(deserializer, &mut track);
            let mut note = |path: serde_ignored::Path<'_>| {
                // `?` stands for the Option that null is read by.
                ignored.push(path.to_string().replace(".?", ""));
            };
            T::deserialize(serde_ignored::Deserializer::new(tracked, &mut note))
        },
    );
    match read {
        Ok(value) => Ok((value, ignored)),
        Err(error) => {
            let path = track.path().to_string();
            let field = if path == "." { String::new() } else { format!("{path}: ") };
            let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
            let message = error.without_snippet().to_string();
            Err(Unreadable(format!("{}{field}{message}", place.unwrap_or_default())))
        }
    }
}

/// The first key that is there twice.
fn duplicate(text: &str) -> Option<String> {
    let options = options(DuplicateKeyPolicy::Error, Truth::OfYaml11);
    let error = serde_saphyr::from_str_with_options::<Value>(text, options).err()?;
    Some(error.without_snippet().to_string())
}

/// Whether `on` and `no` are booleans. They are to kube-proxy's decoder; among our settings they are words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    OfYaml11,
    OfYaml12,
}

fn options(duplicate_keys: DuplicateKeyPolicy, truth: Truth) -> Options {
    serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        strict_booleans: truth == Truth::OfYaml12,
        // A number is no text to Go, either.
        no_schema: true,
    }
}
