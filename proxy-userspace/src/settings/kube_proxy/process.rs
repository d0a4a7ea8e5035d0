//! kube-proxy's flags that count with a configuration file, too.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::configuration::{
    Duration, KubeProxyConfiguration,
    gates::boolean,
    v1alpha1::{FlushFrequency, Quantity, VmoduleItem},
};

/// What to do, with which file, and how to log.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = super::PROCESS)]
pub struct Process {
    /// The configuration: a KubeProxyConfiguration, as in kubeadm's ConfigMap kube-proxy. It takes the place of all flags
    /// below "which --config replaces". When it changes, the process ends with status 1, so as to be started anew
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the configuration that would be in force to this file, and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Do what needs more rights than serving does (sysctls, mounting a bpffs), and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = boolean)]
    pub init_only: bool,
    /// Detach the programs and remove everything kubeshunt has pinned, as `kubeshunt cleanup` does, and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = boolean)]
    pub cleanup: bool,
    /// Address of the API server, in place of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Name of this node, if it is not the host's
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// How much to log: from 4 on debug, from 6 on trace; --log says it better, and wins
    #[arg(short, long, value_name = "N")]
    pub v: Option<u32>,
    /// Form of the log: text or json; --log-format is the same, and wins
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<String>,
    /// No effect: it names files of kube-proxy's source
    #[arg(long, value_name = "PATTERN=N,...", value_delimiter = ',', value_parser = vmodule)]
    pub vmodule: Vec<VmoduleItem>,
    /// No effect: each line of the log is written at once
    #[arg(long, value_name = "DURATION")]
    pub log_flush_frequency: Option<Duration>,
    /// No effect: the log goes to standard error
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub log_text_split_stream: Option<bool>,
    /// No effect: each line of the log is written at once
    #[arg(long, value_name = "BYTES")]
    pub log_text_info_buffer_size: Option<String>,
    /// No effect: the log goes to standard error
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = boolean)]
    pub log_json_split_stream: Option<bool>,
    /// No effect: each line of the log is written at once
    #[arg(long, value_name = "BYTES")]
    pub log_json_info_buffer_size: Option<String>,
    /// No effect: it has none in kube-proxy, either
    #[arg(long, value_name = "FILES")]
    pub boot_id_file: Option<String>,
    /// No effect: it has none in kube-proxy, either
    #[arg(long, value_name = "FILES")]
    pub machine_id_file: Option<String>,
}

impl Process {
    /// Puts into a configuration what counts whether it came from a file or not.
    ///
    /// # Errors
    /// When the name of the node is blank.
    pub fn apply(&self, configuration: &mut KubeProxyConfiguration) -> Result<()> {
        let logging = &mut configuration.logging;
        super::set(&mut logging.verbosity, self.v.as_ref());
        super::set(&mut logging.format, self.logging_format.as_ref());
        super::set(&mut logging.flush_frequency, self.log_flush_frequency.map(FlushFrequency).as_ref());
        // The command line's come first, and count first.
        logging.vmodule.splice(..0, self.vmodule.iter().cloned());
        for (routing, split, size) in [
            (&mut logging.options.text, self.log_text_split_stream, &self.log_text_info_buffer_size),
            (&mut logging.options.json, self.log_json_split_stream, &self.log_json_info_buffer_size),
        ] {
            super::set(&mut routing.split_stream, split.as_ref());
            super::set(&mut routing.info_buffer_size, size.clone().map(Quantity).as_ref());
        }
        if let Some(name) = self.hostname_override.as_deref().filter(|name| !name.is_empty()) {
            let name = name.trim().to_lowercase();
            if name.is_empty() {
                bail!("--hostname-override is blank; name the node, or leave it out");
            }
            configuration.hostname_override = name;
        }
        Ok(())
    }
}

fn vmodule(text: &str) -> Result<VmoduleItem, String> {
    let wrong = || format!("{text:?} is not PATTERN=N");
    let (pattern, verbosity) = text.split_once('=').ok_or_else(wrong)?;
    Ok(VmoduleItem { file_pattern: pattern.to_owned(), verbosity: verbosity.parse().map_err(|_| wrong())? })
}
