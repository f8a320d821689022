//! The host as the commands reach it: Proxmox VE behind its token, and the snippet directory.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use ez_protocol::{InstanceId, order::InstanceSpec};

use crate::{
    cloudinit::{self, PasswordReset, SnippetStore},
    config::Config,
    executor::{FirstBoot, FirstBootError},
    pve::{Hypervisor, ProxmoxHypervisor, PveAddress, Vmid},
};

/// Where Proxmox VE is, and the token in a file.
pub(super) fn address(config: &Config, token_file: &Path) -> anyhow::Result<PveAddress> {
    let Some(fingerprint) = &config.pve_fingerprint else {
        bail!(
            "pve_fingerprint is not set: `ez-node-agent setup` writes it (or set EZ_AGENT_PVE_FINGERPRINT)"
        );
    };
    let token = std::fs::read_to_string(token_file)
        .with_context(|| format!("the API token {} (made by `ez-node-agent setup`)", token_file.display()))?;
    Ok(PveAddress {
        url: config.pve_url.as_str().trim_end_matches('/').to_owned(),
        fingerprint: fingerprint.parse().context("pve_fingerprint")?,
        token: token.trim().to_owned(),
    })
}

/// A client for this node's Proxmox VE; nothing is called yet.
pub(super) fn connect(config: &Config) -> anyhow::Result<Arc<dyn Hypervisor>> {
    let address = address(config, &config.pve_token_file)?;
    let client = ProxmoxHypervisor::new(&address, &config.pve_node).context("the Proxmox VE client")?;
    Ok(Arc::new(client.rereading(&config.pve_token_file)))
}

/// First-boot files in the snippet directory.
pub(super) struct Snippets(SnippetStore);

impl Snippets {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let store = SnippetStore::new(config.snippet_dir.clone(), &config.snippet_storage)
            .context("the snippet directory")?;
        Ok(Self(store))
    }
}

impl FirstBoot for Snippets {
    fn write(
        &self,
        vmid: Vmid,
        generation: u64,
        instance: InstanceId,
        spec: &InstanceSpec,
        reset: Option<&PasswordReset>,
    ) -> Result<String, FirstBootError> {
        let files = cloudinit::build(instance, spec, reset)
            .map_err(|error| FirstBootError::Input(error.to_string()))?;
        self.0.write(vmid, generation, &files).map_err(|error| FirstBootError::Write(error.to_string()))
    }

    fn holds(
        &self,
        vmid: Vmid,
        cicustom: &str,
        instance: InstanceId,
        spec: &InstanceSpec,
        reset: Option<&PasswordReset>,
    ) -> bool {
        cloudinit::build(instance, spec, reset).is_ok_and(|files| self.0.holds(vmid, cicustom, &files))
    }

    fn remove(&self, vmid: Vmid, keep: Option<u64>) -> Result<(), FirstBootError> {
        self.0.remove(vmid, keep).map_err(|error| FirstBootError::Write(error.to_string()))
    }
}
