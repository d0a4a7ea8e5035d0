//! The server as a user of kubectl sees it.

use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{ApiServer, tail};

impl ApiServer {
    /// Runs kubectl as the admin and returns what it prints. An error has what it complained about.
    pub fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<String> {
        let kubectl = self.binaries.kubectl.as_ref().context("there is no kubectl beside kube-apiserver")?;
        let mut command = Command::new(kubectl);
        command
            .env("KUBERC", "off")
            .arg("--kubeconfig")
            .arg(&self.admin)
            // Another server may have had this port before, with other resources.
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl-cache"))
            .arg("--request-timeout=60s")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(text) = stdin {
            // A file and not a pipe: kubectl prints while it reads, and two full pipes would block us both.
            let mut file = tempfile::tempfile()?;
            file.write_all(text.as_bytes())?;
            file.seek(SeekFrom::Start(0))?;
            command.stdin(file);
        }
        let output = self.keeper.run(move || command.spawn())??.wait_with_output()?;
        ensure!(
            output.status.success(),
            "kubectl {} failed ({}): {}",
            args.join(" "),
            output.status,
            tail(&String::from_utf8_lossy(&output.stderr))
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` of any YAML, without its client-side checks. For many objects see
    /// [`apply_all`](Self::apply_all).
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl(&["apply", "--server-side=false", "--validate=false", "-f", "-"], Some(yaml)).map(drop)
    }
}
