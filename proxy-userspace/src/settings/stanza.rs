//! The stanza `kubeshunt` of a configuration file: our own flags, in a place where kube-proxy does not look.
//!
//! Its keys are the flags' names in camelCase. It becomes arguments that are put in front of the command line's, so that
//! one parser judges both, and whose flags the command line repeats are left out, so that the command line wins.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use serde_json::Value;

use super::kube_proxy;

/// The arguments that a stanza makes.
///
/// # Errors
/// A sentence about the first key that is none of ours, or whose value is no value.
pub(super) fn arguments(
    stanza: &BTreeMap<String, Value>,
    run: &Command,
    said: &ArgMatches,
) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    for (key, value) in stanza {
        let flag = run
            .get_arguments()
            .find(|arg| is_ours(arg) && arg.get_long().is_some_and(|name| camel(name) == *key));
        let Some((flag, name)) = flag.and_then(|arg| Some((arg, arg.get_long()?))) else {
            let stray = run.get_arguments().any(|arg| arg.get_long().is_some_and(|name| camel(name) == *key));
            let hint = if stray {
                "it is a setting of kube-proxy's; say it as a field of the file itself, or on the command line"
            } else {
                "no such setting; `kubeshunt run --help` lists our own, written here in camelCase"
            };
            return Err(format!("kubeshunt.{key}: {hint}"));
        };
        if said.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        if let Some(value) =
            text(value, flag).map_err(|wanted| format!("kubeshunt.{key}: {value} is {wanted}"))?
        {
            arguments.push(format!("--{name}{value}").into());
        }
    }
    Ok(arguments)
}

/// Whether a flag is one of ours, and may stand in the stanza.
fn is_ours(arg: &Arg) -> bool {
    let headings = [kube_proxy::PROCESS, kube_proxy::OBEYED, kube_proxy::ACCEPTED];
    !arg.get_help_heading().is_some_and(|heading| headings.contains(&heading))
        && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
}

/// What follows the flag's name, or nothing if the flag is not to be there at all.
fn text(value: &Value, flag: &Arg) -> Result<Option<String>, &'static str> {
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    };
    match value {
        Value::Null => Ok(None),
        Value::Bool(is_on) if is_switch => Ok(is_on.then(String::new)),
        _ if is_switch => Err("neither true nor false"),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            Ok(Some(format!("={}", items.ok_or("no list of words")?.join(","))))
        }
        value => Ok(Some(format!("={}", scalar(value).ok_or("neither a word nor a list of words")?))),
    }
}

/// `max-backends` as `maxBackends`.
fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut camel, word| {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_in_camel_case() {
        for (flag, key) in
            [("log", "log"), ("max-backends", "maxBackends"), ("pods-by-packets", "podsByPackets")]
        {
            assert_eq!(camel(flag), key);
        }
    }
}
