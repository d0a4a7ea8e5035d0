//! The arguments of commands other than `run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Place, Removal, Run};

/// `kubeshunt services`
#[derive(Args, Debug)]
pub struct Services {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

/// `kubeshunt flows`
#[derive(Args, Debug)]
pub struct FlowList {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
}

/// `kubeshunt verify`
#[derive(Args, Debug)]
pub struct Verify {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// What `kubeshunt run` was told
    #[command(flatten)]
    pub run: Run,
}

/// `kubeshunt check`
#[derive(Args, Debug)]
pub struct Check {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Where programs attach and maps are pinned
    #[command(flatten)]
    pub place: Place,
}

/// `kubeshunt cleanup`
#[derive(Args, Debug)]
pub struct Cleanup {
    /// The folder on a bpffs that holds maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/kubeshunt")]
    pub bpffs_root: PathBuf,
    /// What kube-proxy has left
    #[command(flatten)]
    pub leftovers: Removal,
}

/// `kubeshunt completion`
#[derive(Args, Debug, Clone, Copy)]
pub struct Completion {
    /// For which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `kubeshunt man`
#[derive(Args, Debug)]
pub struct Man {
    /// The folder to write them to
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Form of an answer.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people
    Table,
    /// For machines
    Json,
}
