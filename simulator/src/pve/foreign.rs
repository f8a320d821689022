//! VMs that somebody made by hand, beside the API.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::state::{Run, State, Vm};

/// What is known of such a VM.
#[derive(Debug, Deserialize)]
pub(crate) struct Foreign {
    pub(crate) vmid: u32,
    pub(crate) name: Option<String>,
    pub(crate) memory: Option<u64>,
    pub(crate) cores: Option<u32>,
    #[serde(default)]
    pub(crate) running: bool,
    pub(crate) description: Option<String>,
}

impl Foreign {
    /// A VM about which nothing special is known.
    pub(crate) fn plain(vmid: u32) -> Self {
        Foreign { vmid, name: None, memory: None, cores: None, running: false, description: None }
    }
}

impl State {
    /// Puts a foreign VM on a node, unless the VMID is taken.
    pub(crate) fn add_foreign(&mut self, node: &str, at: i64, given: Foreign) -> Result<(), &'static str> {
        if self.vms.contains(given.vmid) {
            return Err("the VMID is taken");
        }
        let mut config = BTreeMap::from([
            ("name".to_owned(), given.name.unwrap_or_else(|| format!("foreign-{}", given.vmid))),
            ("memory".to_owned(), given.memory.unwrap_or(512).to_string()),
            ("cores".to_owned(), given.cores.unwrap_or(1).to_string()),
            ("ostype".to_owned(), "l26".to_owned()),
            ("smbios1".to_owned(), format!("uuid={}", self.draw_uuid())),
        ]);
        if let Some(description) = given.description {
            config.insert("description".into(), description);
        }
        let mac = self.draw_mac();
        config.insert("net0".into(), format!("virtio={mac},bridge=vmbr0"));
        let pid = u32::try_from(self.count("pid", 3)).unwrap_or(1);
        let run = given.running.then_some(Run {
            pid,
            since: at,
            paused: false,
            agent_device: false,
            agent_at: None,
            prelaunch: false,
            booted_from: None,
        });
        let vm = Vm {
            vmid: given.vmid,
            node: node.to_owned(),
            config,
            run,
            created_at: at,
            foreign: true,
            ..Vm::default()
        };
        self.vms.insert(given.vmid, vm);
        Ok(())
    }
}
