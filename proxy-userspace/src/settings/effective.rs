//! What is in force: kube-proxy's configuration, wherever it came from, and our own settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{ArgMatches, Command, parser::ValueSource};

use super::{Line, Run, flows, kube_proxy, packets, stanza, tracing::OTLP_VARIABLE};
use crate::{
    configuration::{
        KubeProxyConfiguration,
        document::{self, Document, STANZA},
        fields, gates,
        validation::{sloppy_ip, socket_address},
    },
    controller::health::Expectations,
    datapath::{self, flows::settings::PacketSettings},
    flows::age::Timeouts,
    host, serve,
    settings::{self, logging::LogFormat},
    source::kubernetes::{self, AccessSettings, requests::Requests},
    tables::node_ports,
};

/// What was said makes no sense: it has to be corrected, starting again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(String);

/// What is in force.
#[derive(Debug)]
pub struct Settings {
    /// What kube-proxy is told.
    pub configuration: KubeProxyConfiguration,
    /// What we are told alone, and what is to be done.
    pub own: Run,
    /// What whoever wrote it should know: one sentence each, for the log.
    pub remarks: Vec<String>,
    /// What the command line says, one by one, what it leaves to defaults as well: names without dashes, and values.
    pub flags: Vec<(String, String)>,
    /// The line that all this was read from.
    line: Line,
}

impl Settings {
    /// Reads what there is to read, judges it, and fills in what is not said. Nothing is touched.
    ///
    /// # Errors
    /// What makes no sense, and where.
    pub fn load(line: &Line, run: Run, said: &ArgMatches) -> Result<Self, Mistake> {
        let Some(path) = run.kube_proxy.process.config.clone() else {
            let mut remarks = Vec::new();
            let obeyed = &run.kube_proxy.obeyed;
            let configuration = run.kube_proxy.configuration();
            for (flag, port, address) in [
                ("healthz", obeyed.healthz_port, &configuration.healthz_bind_address),
                ("metrics", obeyed.metrics_port, &configuration.metrics_bind_address),
            ] {
                let differs = |port: &u16| socket_address(address).is_some_and(|to| to.port() != *port);
                if port.as_ref().is_some_and(differs) {
                    remarks.push(format!(
                        "--{flag}-port has no effect: --{flag}-bind-address has a port, {address}"
                    ));
                }
            }
            let flags = flags(&line.run(), said);
            return Self { configuration, own: run, remarks, flags, line: line.clone() }.completed();
        };
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Mistake(format!(
                "cannot read the configuration file {shown}: {error}; name another with --config"
            ))
        })?;
        Self::with_file(line, run, said, &text).map_err(|Mistake(what)| Mistake(format!("{shown}: {what}")))
    }

    /// The same with the file's text at hand.
    fn with_file(line: &Line, run: Run, said: &ArgMatches, text: &str) -> Result<Self, Mistake> {
        let Document { mut configuration, stanza, tolerated } =
            document::read(text).map_err(|error| Mistake(error.to_string()))?;
        configuration.set_defaults();
        let command = line.run();
        let ours = stanza::arguments(&stanza, &command, said).map_err(Mistake)?;
        let own = if ours.is_empty() {
            run
        } else {
            let wrong = |error: clap::Error| Mistake(format!("{STANZA}: {}", first_words(&error)));
            match line.with(ours).parse().map_err(wrong)? {
                (settings::Command::Run(run), _) => *run,
                (settings::Command::Verify(verify), _) => verify.run,
                _ => run,
            }
        };
        let mut remarks = Vec::new();
        if !tolerated.is_empty() {
            remarks.push(format!(
                "the configuration file has what kube-proxy tolerates, too: {}",
                tolerated.join("; ")
            ));
        }
        let discarded = discarded(&command, said);
        if !discarded.is_empty() {
            remarks.push(format!("--config takes the place of these flags: {}", discarded.join(", ")));
        }
        Self { configuration, own, remarks, flags: flags(&command, said), line: line.clone() }.completed()
    }

    fn completed(mut self) -> Result<Self, Mistake> {
        let mistake = |error: anyhow::Error| Mistake(format!("{error:#}"));
        let process = &self.own.kube_proxy.process;
        process.apply(&mut self.configuration).map_err(mistake)?;
        for (flag, file) in
            [("boot-id-file", &process.boot_id_file), ("machine-id-file", &process.machine_id_file)]
        {
            if file.is_some() {
                self.remarks.push(format!("--{flag} has no effect: it has none in kube-proxy, either"));
            }
        }
        self.configuration.set_platform_defaults();
        self.configuration.validate().map_err(|misfits| Mistake(misfits.to_string()))?;
        self.remarks.extend(fields::without_effect(&self.configuration));
        if self.own.manifests.is_some() && !self.configuration.client_connection.kubeconfig.is_empty() {
            self.remarks
                .push("clientConnection.kubeconfig has no effect: --manifests takes its place".to_owned());
        }
        // What is only known to be wrong when it is put together.
        self.devices().map_err(mistake)?;
        self.node_ports().map_err(mistake)?;
        self.own.packets.by_packets().map_err(mistake)?;
        packets::pods(&self.configuration).map_err(mistake)?;
        let filter = self.log_filter();
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&filter) {
            return Err(Mistake(format!("--log {filter:?} is no filter: {error}")));
        }
        for server in self.own.api.servers(process_master(&self.own)) {
            kubernetes::check_server(&server).map_err(|error| Mistake(error.to_string()))?;
        }
        let environment = std::env::var(OTLP_VARIABLE).ok();
        self.remarks.extend(self.own.tracing.settle(environment).map_err(Mistake)?);
        Ok(self)
    }

    /// The configuration file, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.own.kube_proxy.process.config.as_deref()
    }

    /// Whether another text of the file would mean something else.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn differ_with(&self, text: &str) -> Result<bool, Mistake> {
        let unreadable = |error: clap::Error| Mistake(first_words(&error));
        let (settings::Command::Run(run), said) = self.line.parse().map_err(unreadable)? else {
            return Ok(false);
        };
        let new = Self::with_file(&self.line, *run, &said, text)?;
        let kubeconfig = &new.configuration.client_connection.kubeconfig;
        if !kubeconfig.is_empty() && new.own.manifests.is_none() {
            let path = Path::new(kubeconfig);
            kubernetes::check_kubeconfig(path).map_err(|error| Mistake(error.to_string()))?;
        }
        // Of our own settings none can be compared, but all of them print what they hold.
        let own = |run: &Run| format!("{run:?}");
        Ok(new.configuration != self.configuration || own(&new.own) != own(&self.own))
    }

    /// The datapath's share.
    ///
    /// # Errors
    /// When no cgroup v2 hierarchy is mounted and none is named, or the machine does not tell about itself.
    pub fn datapath(&self) -> Result<datapath::Settings> {
        let packets = self.own.flows.packets(&self.configuration.conntrack)?;
        Ok(datapath::Settings {
            cgroup_root: self.own.place.cgroup_root()?,
            bpffs_root: self.own.place.bpffs_root.clone(),
            capacity: self.own.room.capacity(),
            memory: self.own.room.memory(),
            log_decisions: self.own.logging.log_decisions,
            tc_attach: self.own.packets.hook(),
            packets: PacketSettings { pods: packets::pods(&self.configuration)?, ..packets },
        })
    }

    /// How long flows may be idle.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        flows::timeouts(&self.configuration.conntrack)
    }

    /// The devices that the user has chosen.
    ///
    /// # Errors
    /// When two settings contradict each other.
    pub fn devices(&self) -> Result<crate::host::devices::Choice> {
        self.own.packets.choice(&self.configuration)
    }

    /// Whether Services answer at their external IPs.
    #[must_use]
    pub fn serves_external_ips(&self) -> bool {
        gates::is_on(&self.configuration.feature_gates, "AllowServiceExternalIPs")
    }

    /// Where NodePorts answer.
    ///
    /// # Errors
    /// When the words contradict each other.
    pub fn node_ports(&self) -> Result<node_ports::Rule> {
        let words = self.configuration.node_port_addresses.iter().map(|word| word.parse());
        let words: Result<Vec<node_ports::Word>, String> = words.collect();
        let words = words.map_err(|wrong| anyhow!("nodePortAddresses: {wrong}"))?;
        Ok(node_ports::Rule {
            choice: node_ports::Choice::of(&words).context("nodePortAddresses")?,
            primary: sloppy_ip(&self.configuration.bind_address).filter(|ip| !ip.is_unspecified()),
            on_loopback: self.configuration.iptables.localhost_node_ports.unwrap_or(true)
                || self.configuration.mode != "iptables",
        })
    }

    /// The node's name as EndpointSlices have it: trimmed, lower case.
    ///
    /// # Errors
    /// When it is empty or the host has none.
    pub fn node_name(&self) -> Result<String> {
        let name = match &self.configuration.hostname_override {
            name if !name.is_empty() => name.clone(),
            _ => nix::unistd::gethostname()
                .context("cannot read the host's name")?
                .into_string()
                .map_err(|name| anyhow!("the host's name {} is not UTF-8", name.display()))?,
        };
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            bail!("the node's name is empty; set one with --hostname-override");
        }
        Ok(name)
    }

    /// How the API servers are found, as far as the user has said it.
    #[must_use]
    pub fn access(&self, requests: Requests) -> AccessSettings {
        let kubeconfig = &self.configuration.client_connection.kubeconfig;
        AccessSettings {
            kubeconfig: Some(PathBuf::from(kubeconfig)).filter(|_| !kubeconfig.is_empty()),
            servers: self.own.api.servers(process_master(&self.own)),
            requests,
            ..AccessSettings::default()
        }
    }

    /// What to log.
    #[must_use]
    pub fn log_filter(&self) -> String {
        self.own.logging.filter(&self.configuration)
    }

    /// How to write the log.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        self.own.logging.format(&self.configuration)
    }

    /// What the HTTP servers serve, and where.
    ///
    /// # Errors
    /// When there is no address for metrics, which validation does not let pass.
    pub fn serving(&self) -> Result<serve::Settings> {
        let configuration = &self.configuration;
        let metrics = &configuration.metrics_bind_address;
        Ok(serve::Settings {
            health: socket_address(&configuration.healthz_bind_address),
            metrics: socket_address(metrics)
                .with_context(|| format!("metricsBindAddress {metrics:?} is none"))?,
            hard_fail: configuration.bind_address_hard_fail,
            mode: configuration.mode.clone(),
            configz: serde_json::to_value(self.as_written())?,
            flags: self.flags.clone(),
        })
    }

    /// What health is judged by: changes may wait for twice the period of the mode, as kube-proxy has it.
    #[must_use]
    pub fn expectations(&self) -> Expectations {
        Expectations {
            patience: self.configuration.periods().sync.to_std().saturating_mul(2),
            // A folder need not speak of Nodes.
            needs_node: self.own.manifests.is_none(),
            families: host::families(),
        }
    }

    /// The configuration as `--write-config-to` writes it.
    #[must_use]
    pub fn as_written(&self) -> KubeProxyConfiguration {
        let mut configuration = self.configuration.clone();
        configuration.forget_other_modes();
        configuration
    }
}

/// The server of `--master`, if it says anything.
fn process_master(own: &Run) -> Option<&str> {
    own.kube_proxy.process.master.as_deref().filter(|url| !url.is_empty())
}

/// What a command line says; for kube-proxy's settings that it leaves open, kube-proxy's defaults.
fn flags(run: &Command, said: &ArgMatches) -> Vec<(String, String)> {
    let default = KubeProxyConfiguration::defaulted();
    let flag = |argument: &clap::Arg| {
        let name = argument.get_long()?;
        let values = said.try_get_raw(argument.get_id().as_str()).ok()?;
        let value = match values {
            Some(values) => values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","),
            None => fields::of_flag(&default, name)?,
        };
        Some((name.to_owned(), value))
    };
    let mut flags: Vec<_> = run.get_arguments().filter_map(flag).collect();
    flags.sort();
    flags
}

/// The flags on the command line that the file replaces.
fn discarded(run: &Command, said: &ArgMatches) -> Vec<String> {
    let replaced = [kube_proxy::OBEYED, kube_proxy::ACCEPTED];
    let is_said = |id: &str| said.value_source(id) == Some(ValueSource::CommandLine);
    run.get_arguments()
        .filter(|arg| arg.get_help_heading().is_some_and(|heading| replaced.contains(&heading)))
        .filter(|arg| is_said(arg.get_id().as_str()))
        .filter_map(|arg| arg.get_long().map(|name| format!("--{name}")))
        .collect()
}

/// What clap says, without its advice about usage.
fn first_words(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}
