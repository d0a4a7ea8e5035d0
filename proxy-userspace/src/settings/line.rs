//! The command line, as far as it is text: under which name the program was called, and names of flags as kube-proxy
//! takes them.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::Path,
};

use clap::{ArgMatches, Args as _, CommandFactory as _, FromArgMatches as _};

use super::{Command, CommandLine, Run};

/// The name under which the program is `kubeshunt run`, with kube-proxy's command line and no commands.
const KUBE_PROXY: &str = "kube-proxy";

/// A command line.
#[derive(Clone, Debug)]
pub struct Line {
    is_kube_proxy: bool,
    /// With the program's name in front.
    words: Vec<OsString>,
}

impl Line {
    /// Reads what the program was called with, its own name first.
    pub fn of(words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let run = kube_proxy();
        let words = words.into_iter().map(|word| normalised(word.into()));
        let words: Vec<OsString> = words.filter(|word| !says_nothing(word, &run)).collect();
        let name = words.first().and_then(|path| Path::new(path).file_name());
        Self { is_kube_proxy: name == Some(OsStr::new(KUBE_PROXY)), words }
    }

    /// What it says, and for `run` also how it said it.
    ///
    /// # Errors
    /// When it makes no sense, or asks for help only.
    pub fn parse(&self) -> clap::error::Result<(Command, ArgMatches)> {
        let matches = self.command().try_get_matches_from(&self.words)?;
        if self.is_kube_proxy {
            let run = Run::from_arg_matches(&matches)?;
            return Ok((Command::Run(Box::new(run)), matches));
        }
        let line = CommandLine::from_arg_matches(&matches)?;
        let matches = matches.subcommand().map(|(_, matches)| matches.clone()).unwrap_or_default();
        Ok((line.command, matches))
    }

    /// The same line with these arguments in front of those of `run`, or of `verify`, which takes them, too.
    #[must_use]
    pub fn with(&self, arguments: Vec<OsString>) -> Self {
        let mut words = self.words.clone();
        let run = words.iter().position(|word| word == "run" || word == "verify").map_or(1, |at| at + 1);
        let begin = if self.is_kube_proxy { 1 } else { run };
        words.splice(begin.min(words.len())..begin.min(words.len()), arguments);
        Self { words, ..self.clone() }
    }

    /// What can be said.
    #[must_use]
    pub fn command(&self) -> clap::Command {
        if self.is_kube_proxy { kube_proxy() } else { CommandLine::command() }
    }

    /// What can be said of `run`.
    #[must_use]
    pub fn run(&self) -> clap::Command {
        kube_proxy()
    }
}

/// `kubeshunt run` under its other name.
fn kube_proxy() -> clap::Command {
    let about = "kubeshunt in place of kube-proxy: Kubernetes Services by eBPF, beside any CNI";
    Run::augment_args(clap::Command::new(KUBE_PROXY))
        .display_name("kubeshunt")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .after_help(super::EXIT_CODES)
        .args_override_self(true)
}

/// Whether a word is a flag with an empty value, as templates make them: kube-proxy takes it for its default.
fn says_nothing(word: &OsStr, run: &clap::Command) -> bool {
    let name = word.to_str().and_then(|word| word.strip_prefix("--")?.strip_suffix('='));
    let takes_words = |flag: &clap::Arg| {
        flag.get_action().takes_values() && flag.get_num_args().is_none_or(|values| values.min_values() > 0)
    };
    name.is_some_and(|name| {
        run.get_arguments().any(|flag| flag.get_long() == Some(name) && takes_words(flag))
    })
}

/// The name of a flag with `-` where kube-proxy would also take `_` (`WordSepNormalizeFunc`).
fn normalised(word: OsString) -> OsString {
    if !word.as_bytes().starts_with(b"--") {
        return word;
    }
    let mut bytes = word.into_vec();
    let name = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
    for byte in &mut bytes[..name] {
        if *byte == b'_' {
            *byte = b'-';
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_are_dashes_in_names_of_flags_only() {
        for (word, wanted) in [
            ("--oom_score_adj=1", "--oom-score-adj=1"),
            ("--hostname-override=a_b", "--hostname-override=a_b"),
            ("a_b", "a_b"),
            ("--config", "--config"),
        ] {
            assert_eq!(normalised(word.into()), wanted);
        }
    }

    #[test]
    fn a_flag_with_nothing_behind_it_is_as_good_as_none() {
        let run = kube_proxy();
        let values = run.get_arguments();
        let values = values.filter(|flag| flag.get_action().takes_values() && flag.get_num_args().is_none());
        let empty: Vec<String> = values.filter_map(|flag| Some(format!("--{}=", flag.get_long()?))).collect();
        assert!(empty.len() > 40 && empty.contains(&"--kubeconfig=".to_owned()), "{empty:?}");
        let words = std::iter::once("kube-proxy").chain(empty.iter().map(String::as_str));
        assert!(Line::of(words).parse().is_ok());
        for wrong in ["--no-such-flag=", "--bind-address-hard-fail="] {
            assert!(Line::of(["kube-proxy", wrong]).parse().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_program_is_kube_proxy_under_that_name_wherever_it_lies() {
        for name in ["kube-proxy", "/usr/local/bin/kube-proxy"] {
            let (command, _) = Line::of([name, "--manifests", "d"]).parse().unwrap();
            assert!(matches!(command, Command::Run(_)), "{name}");
            assert!(Line::of([name, "services"]).parse().is_err(), "{name} has no commands");
        }
        assert!(Line::of(["kubeshunt", "--manifests", "d"]).parse().is_err());
    }
}
