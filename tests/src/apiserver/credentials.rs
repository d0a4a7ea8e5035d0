//! Certificates, tokens, and the kubeconfigs that hand them to clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::ApiServer;
use super::settings::{Options, User};

/// The file of users and their tokens.
const TOKENS: &str = "tokens.csv";

impl ApiServer {
    /// The authority that signed the serving certificate, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A kubeconfig that may do everything.
    pub fn kubeconfig_admin(&self) -> &Path {
        &self.admin
    }

    /// Writes a kubeconfig for the user with this token.
    pub fn kubeconfig_for(&self, token: &str) -> Result<PathBuf> {
        self.kubeconfig(&self.url(), token)
    }

    /// Writes a kubeconfig for the user with this token that goes to `server`, such as the
    /// [`url`](CuttingProxy::url) of a proxy. Its address must be among the certificate's names.
    pub fn kubeconfig(&self, server: &str, token: &str) -> Result<PathBuf> {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.path().join(format!("{number}.kubeconfig"));
        self.write_kubeconfig(&path, server, token)?;
        Ok(path)
    }

    pub(super) fn write_kubeconfig(&self, path: &Path, server: &str, token: &str) -> Result<()> {
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": self.ca()}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Replaces the users it knows, from its next [`restart`](Self::restart) on. The methods here need
    /// [`ADMIN_TOKEN`](super::ADMIN_TOKEN).
    pub fn replace_users(&self, users: &[User]) -> Result<()> {
        let path = self.dir.path().join(TOKENS);
        fs::write(&path, token_lines(users)).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Writes certificates, keys and tokens; returns how to talk to a server that uses them.
pub(super) fn write_credentials(dir: &Path, options: &Options) -> Result<Arc<rustls::ClientConfig>> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    let write = |name: &str, text: String| {
        fs::write(dir.join(name), text).with_context(|| format!("cannot write {}", dir.join(name).display()))
    };

    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "kubeshunt-tests");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    write("ca.crt", ca_cert.pem())?;

    let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into(), options.listen.to_string()];
    names.extend_from_slice(&options.names);
    names.sort();
    names.dedup();
    let mut serving = CertificateParams::new(names)?;
    serving.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    serving.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    write("serving.crt", serving.signed_by(&key, &Issuer::new(ca, ca_key))?.pem())?;
    write("serving.key", key.serialize_pem())?;

    let key = KeyPair::generate()?;
    write("sa.key", key.serialize_pem())?;
    write("sa.pub", key.public_key_pem())?;

    write(TOKENS, token_lines(&options.users))?;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::clone(ca_cert.der()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn token_lines(users: &[User]) -> String {
    let line = |user: &User| {
        let User { token, name, groups } = user;
        format!("{token},{name},{name},\"{}\"\n", groups.join(","))
    };
    users.iter().map(line).collect()
}
