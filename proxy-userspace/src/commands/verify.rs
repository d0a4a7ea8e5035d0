//! `kubeshunt verify`: whether the kernel serves what it should, seen from beside the process that serves: the same
//! objects, derived in the same way, next to the maps as they are. Nothing is written, and no lock is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::Write as _,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::{major, minor};
use proxy_common::{address::Address, layout::program};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{render, source, table};
use crate::{
    audit::{
        Difference,
        served::{self, Expected, Frontends, Served},
    },
    cluster::{Cluster, change::Change},
    datapath::{
        attachments,
        contents::{self, Contents, Entry},
        devices,
        flows::settings::Pods,
        kernel, object,
        pins::{self, Pins},
    },
    host::{self, devices::Devices},
    settings::{Output, Settings, Switch},
    source::{Outlet, kubernetes::requests::Requests},
    tables::{self, node_ports, ranges},
    trace::Trace,
};

/// Changes that may wait to be taken in.
const QUEUE: usize = 8192;

/// How long listing everything may take.
const LISTING: Duration = Duration::from_secs(30);

/// From one look to the next: what is only on its way is there by then, and is not spoken of.
const DISTANCES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Prints the differences that last; says whether there are none.
///
/// # Errors
/// When there are no maps, or what they should say cannot be had.
pub fn run(args: &Settings, output: Output) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let report = runtime.block_on(verify(args));
    runtime.shutdown_timeout(Duration::from_millis(100));
    let report = report?;
    let text = match output {
        Output::Table => as_table(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(report.same)
}

/// The answer.
#[derive(Debug, Serialize)]
struct Report {
    same: bool,
    /// How many frontends there should be.
    frontends: usize,
    differences: Vec<Row>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
struct Row {
    /// The map; or `hook`, `device`, `pin`, `process`.
    what: &'static str,
    /// The service port, the hook, the device.
    object: String,
    difference: String,
}

impl From<&Difference> for Row {
    fn from(difference: &Difference) -> Self {
        Self { what: difference.map(), object: difference.object(), difference: difference.detail() }
    }
}

async fn verify(args: &Settings) -> Result<Report> {
    let (node, pins) = (args.node_name()?, Pins::new(&args.own.place.bpffs_root));
    // That there is nothing to compare with is clear now.
    contents::read(&pins)?;
    let requests = Requests::default();
    let source = source::of(args, &node, &pins, &requests).await?;
    let (sender, changes) = mpsc::channel(QUEUE);
    let cluster = Cluster::new(&node);
    let mut eye = Eye {
        args,
        cluster: if args.serves_external_ips() { cluster } else { cluster.without_external_ips() },
        changes,
        addresses: host::addresses::follow().await?,
        devices: match args.own.packets.packet_path {
            Switch::On => Some(host::devices::follow(args.devices()?).await?),
            Switch::Off => None,
        },
        pins,
    };
    tokio::select! {
        ended = source.run(Outlet::new(sender, Trace::default())) => {
            ended.context("the source of Services ended")?;
            bail!("the source of Services ended")
        }
        report = eye.look_until_it_lasts() => report,
    }
}

/// Sees both sides.
struct Eye<'a> {
    args: &'a Settings,
    pins: Pins,
    cluster: Cluster,
    changes: mpsc::Receiver<Change>,
    addresses: watch::Receiver<BTreeSet<Address>>,
    devices: Option<watch::Receiver<Devices>>,
}

impl Eye<'_> {
    /// Looks once, and as long as there are differences again; those that are still there in the end last.
    async fn look_until_it_lasts(&mut self) -> Result<Report> {
        let listed = timeout(LISTING, async {
            while !self.cluster.is_complete() {
                self.take_in().await?;
            }
            anyhow::Ok(())
        });
        listed.await.map_err(|_| {
            anyhow::anyhow!(
                "Services, EndpointSlices and the Node were not listed completely within {LISTING:?}"
            )
        })??;
        let (frontends, mut differences) = self.look().await?;
        for distance in DISTANCES {
            if differences.is_empty() {
                break;
            }
            let until = Instant::now() + distance;
            while let Ok(taken) = timeout_at(until, self.take_in()).await {
                taken?;
            }
            let still: HashSet<Row> = self.look().await?.1.into_iter().collect();
            differences.retain(|row| still.contains(row));
        }
        Ok(Report { same: differences.is_empty(), frontends, differences })
    }

    async fn take_in(&mut self) -> Result<()> {
        let change = self.changes.recv().await.context("the source of Services ended")?;
        // What is wrong with objects is said by who serves.
        self.cluster.apply(change);
        Ok(())
    }

    async fn look(&self) -> Result<(usize, Vec<Row>)> {
        let found = contents::read(&self.pins)?;
        let names: BTreeSet<_> = self.cluster.service_names().cloned().collect();
        let of = |name| tables::of_service(&self.cluster, &name);
        let desired: Vec<_> = names.into_iter().map(|name| (name.clone(), of(name))).collect();
        let expected = Expected::of(&desired);
        let mut differences = expected.differences(&frontends(&found));
        if !self.cluster.is_whole() {
            // Whoever cannot be read keeps what an earlier version asked for.
            differences.retain(|one| !matches!(one, Difference::Foreign { .. }));
        }
        differences.extend(self.surroundings(&found)?);
        let mut rows: Vec<Row> = differences.iter().map(Row::from).collect();
        rows.extend(self.hooks()?);
        rows.extend(self.devices().await?);
        rows.extend(self.pinned()?);
        rows.extend(self.process()?);
        Ok((expected.len(), rows))
    }

    fn surroundings(&self, found: &Contents) -> Result<Vec<Difference>> {
        let rule = self.args.node_ports()?;
        let mut all = Vec::new();
        if rule.choice != node_ports::Choice::Primary || self.cluster.is_node_known() {
            let wanted = rule.addresses(&*self.addresses.borrow(), self.cluster.node());
            all = served::node_addresses(&wanted, &found.addresses);
        }
        let packets = self.args.datapath()?.packets;
        let wanted = [
            self.cluster
                .are_service_cidrs_known()
                .then(|| ranges::with(&packets.service_cidrs, &self.cluster.service_cidrs()).0),
            match packets.pods {
                Pods::ByDevice => Some(ranges::NONE),
                Pods::ByAddress(ranges) => Some(ranges),
                Pods::ByNode => self
                    .cluster
                    .is_node_known()
                    .then(|| ranges::with(&ranges::NONE, &self.cluster.node().pod_cidrs).0),
            },
        ];
        for ((map, wanted), found) in
            ["service_cidrs", "pod_cidrs"].into_iter().zip(wanted).zip(&found.ranges)
        {
            if wanted.is_some_and(|wanted| wanted[..] != found[..]) {
                all.push(Difference::List { map });
            }
        }
        Ok(all)
    }

    /// Hooks that are not attached, or whose programs do not run.
    fn hooks(&self) -> Result<Vec<Row>> {
        let root = self.args.own.place.cgroup_root()?;
        let id = pins::cgroup_id(&root)?;
        let folder = File::open(&root).with_context(|| format!("cannot open {}", root.display()))?;
        let mut rows = Vec::new();
        for hook in program::ALL {
            let row = |difference: String| Row { what: "hook", object: hook.to_owned(), difference };
            let link = kernel::open_pin(&self.pins.link(hook))?;
            let Some(link) = link.map(|link| kernel::cgroup_link(link.as_fd())).transpose()? else {
                rows.push(row("its link is not pinned".to_owned()));
                continue;
            };
            if link.cgroup != id {
                rows.push(row(format!("not attached to {}", root.display())));
            } else if !attachments::effective(&folder, hook)?.contains(&link.program) {
                rows.push(row(format!("its program does not run in {}", root.display())));
            }
        }
        Ok(rows)
    }

    /// Devices that should have programs for packets and have not, or the other way round.
    async fn devices(&self) -> Result<Vec<Row>> {
        let wanted = self.devices.as_ref().map(|all| all.borrow().clone()).unwrap_or_default();
        let equipped = devices::equipped(&self.pins).await?;
        let row = |object: String, difference: &str| Row {
            what: "device",
            object,
            difference: difference.to_owned(),
        };
        let lacking = wanted.iter().filter(|(index, device)| !device.is_covered && !equipped.contains(index));
        let mut rows: Vec<Row> =
            lacking.map(|(_, device)| row(device.name.clone(), "has no programs for packets")).collect();
        let foreign = equipped.iter().filter(|index| !wanted.contains_key(index));
        rows.extend(foreign.filter_map(|index| {
            Some(row(host::devices::name_of(*index)?, "has programs for packets and should have none"))
        }));
        Ok(rows)
    }

    /// Maps that would not outlive the process.
    fn pinned(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for name in object::pinned_maps() {
            if kernel::open_pin(&self.pins.map(name))?.is_none() {
                let difference = "is not pinned".to_owned();
                rows.push(Row { what: "pin", object: name.to_owned(), difference });
            }
        }
        Ok(rows)
    }

    /// Whether anybody holds the lock: it is not asked for, for who starts in this moment must get it.
    fn process(&self) -> Result<Option<Row>> {
        let root = self.pins.root();
        let about = fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?;
        let inode = format!("{:02x}:{:02x}:{}", major(about.dev()), minor(about.dev()), about.ino());
        let locks = fs::read_to_string("/proc/locks").context("cannot read /proc/locks")?;
        let is_held = locks.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some("FLOCK") && fields.any(|field| field == inode)
        });
        Ok((!is_held).then(|| Row {
            what: "process",
            object: root.display().to_string(),
            difference: "no kubeshunt works on it: what changes does not reach the maps".to_owned(),
        }))
    }
}

/// What the maps serve, without their ids and slots.
fn frontends(found: &Contents) -> Frontends {
    let served = |entry: &Entry| Served {
        kind: entry.frontend.belongs_to(&entry.key).then_some(entry.frontend.kind),
        sets: entry.sets,
        traits: entry.traits,
        cluster: entry.cluster.clone(),
        local: entry.local.clone(),
        // Somebody only where not everybody is.
        admitted: entry.admitted.iter().flatten().map(|range| (range.address, range.length)).collect(),
    };
    found.frontends.iter().map(|entry| (entry.key, served(entry))).collect::<BTreeMap<_, _>>()
}

fn as_table(report: &Report) -> String {
    let compared = format!("{} frontends, the node's addresses, hooks, devices and pins", report.frontends);
    if report.same {
        return format!("no differences: {compared} are as they should be\n");
    }
    let mut rows = table(&["WHAT", "OBJECT", "DIFFERENCE"]);
    for row in &report.differences {
        rows.add_row([row.what, &row.object, &row.difference]);
    }
    format!("{}\n\n{} differences in {compared}\n", render(&rows), report.differences.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: &'static str, object: &str, difference: &str) -> Row {
        Row { what, object: object.to_owned(), difference: difference.to_owned() }
    }

    #[test]
    fn the_table_lines_up() {
        let differences = vec![
            row("frontends", "shop/web:http/TCP (IPv4)", "10.96.0.1:80/TCP is missing"),
            row("hook", "connect4", "its link is not pinned"),
        ];
        let report = Report { same: false, frontends: 12, differences };
        let expected = "
 WHAT       OBJECT                    DIFFERENCE
 frontends  shop/web:http/TCP (IPv4)  10.96.0.1:80/TCP is missing
 hook       connect4                  its link is not pinned

2 differences in 12 frontends, the node's addresses, hooks, devices and pins
";
        assert_eq!(format!("\n{}", as_table(&report)), expected);
    }

    #[test]
    fn nothing_is_one_line() {
        let report = Report { same: true, frontends: 0, differences: Vec::new() };
        assert!(as_table(&report).starts_with("no differences: 0 frontends"));
        let json = serde_json::to_value(&report).expect("it is plain");
        assert_eq!(json, serde_json::json!({"same": true, "frontends": 0, "differences": []}));
    }
}
