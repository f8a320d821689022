//! The node and the cluster around the VMs.

use super::{ProxmoxHypervisor, config_id};
use crate::pve::{
    ClusterNode, ConfigRead, FirewallState, GuestSummary, ImageTemplate, NodeStatus, Permissions, Power,
    PveError, Storage, Version, Vmid, parse_image_marker,
    raw::{self, Row},
};

impl ProxmoxHypervisor {
    pub(super) async fn read_version(&self) -> Result<Version, PveError> {
        let row: Row = self.read("/version", &[]).await?;
        Version::parse(&raw::text(&row, "version").unwrap_or_default())
    }

    pub(super) async fn read_node_status(&self) -> Result<NodeStatus, PveError> {
        let row: Row = self.read(&self.node_path("/status"), &[]).await?;
        let (memory, cpu, kernel) =
            (raw::object(&row, "memory"), raw::object(&row, "cpuinfo"), raw::object(&row, "current-kernel"));
        Ok(NodeStatus {
            uptime_secs: raw::count(&row, "uptime"),
            cpu: raw::fraction(&row, "cpu"),
            cpus: u32::try_from(raw::count(&cpu, "cpus")).unwrap_or(u32::MAX),
            memory_total: raw::count(&memory, "total"),
            memory_used: raw::count(&memory, "used"),
            kernel: raw::text(&kernel, "release").or_else(|| raw::text(&row, "kversion")).unwrap_or_default(),
            pve_version: raw::text(&row, "pveversion").unwrap_or_default(),
        })
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<ClusterNode>, PveError> {
        let rows: Vec<Row> = self.read("/nodes", &[]).await?;
        let node = |row: &Row| {
            Some(ClusterNode {
                name: raw::text(row, "node")?,
                online: raw::text(row, "status").as_deref() == Some("online"),
                fingerprint: raw::text(row, "ssl_fingerprint"),
            })
        };
        Ok(rows.iter().filter_map(node).collect())
    }

    pub(super) async fn read_guests(&self) -> Result<Vec<GuestSummary>, PveError> {
        let rows: Vec<Row> = self.read(&self.node_path("/qemu"), &[]).await?;
        let guest = |row: &Row| {
            let running = raw::text(row, "status").as_deref() == Some("running");
            Some(GuestSummary {
                vmid: Vmid::try_from(raw::count(row, "vmid")).ok().filter(|id| *id > 0)?,
                name: raw::text(row, "name").unwrap_or_default(),
                power: if running { Power::Running } else { Power::Stopped },
                template: raw::flag(row, "template"),
                lock: raw::text(row, "lock").filter(|lock| !lock.is_empty()),
                cpu: raw::fraction(row, "cpu"),
                cpus: u32::try_from(raw::count(row, "cpus")).unwrap_or(u32::MAX),
                memory_used: raw::count(row, "mem"),
                memory_max: raw::count(row, "maxmem"),
                disk_max: raw::count(row, "maxdisk"),
                uptime_secs: raw::count(row, "uptime"),
                net_in: raw::count(row, "netin"),
                net_out: raw::count(row, "netout"),
                tags: raw::words(row, "tags"),
            })
        };
        Ok(rows.iter().filter_map(guest).collect())
    }

    pub(super) async fn read_vmid_taken(&self, vmid: Vmid) -> Result<bool, PveError> {
        super::vm_id(vmid)?;
        let id = vmid.to_string();
        match self.read::<serde_json::Value>("/cluster/nextid", &[("vmid", &id)]).await {
            Ok(_) => Ok(false),
            Err(error) if error.is_already_exists() => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_storages(&self) -> Result<Vec<Storage>, PveError> {
        let rows: Vec<Row> = self.read(&self.node_path("/storage"), &[]).await?;
        let storage = |row: &Row| {
            Some(Storage {
                id: raw::text(row, "storage")?,
                kind: raw::text(row, "type").unwrap_or_default(),
                content: raw::words(row, "content").into_iter().collect(),
                active: raw::flag(row, "active") && raw::flag(row, "enabled"),
                shared: raw::flag(row, "shared"),
                total: raw::count(row, "total"),
                used: raw::count(row, "used"),
                available: raw::count(row, "avail"),
            })
        };
        Ok(rows.iter().filter_map(storage).collect())
    }

    pub(super) async fn read_bridges(&self) -> Result<Vec<String>, PveError> {
        let rows: Vec<Row> = self.read(&self.node_path("/network"), &[]).await?;
        let is_bridge =
            |row: &&Row| matches!(raw::text(row, "type").as_deref(), Some("bridge" | "OVSBridge" | "vnet"));
        Ok(rows.iter().filter(is_bridge).filter_map(|row| raw::text(row, "iface")).collect())
    }

    pub(super) async fn read_templates(&self) -> Result<Vec<ImageTemplate>, PveError> {
        let mut found = Vec::new();
        for guest in self.read_guests().await?.into_iter().filter(|g| g.template) {
            let ConfigRead::Present(config) = self.read_config(guest.vmid).await? else { continue };
            let Some((image, digest)) = parse_image_marker(config.description()) else { continue };
            let Some(disk) = config.boot_disk() else { continue };
            found.push(ImageTemplate {
                vmid: guest.vmid,
                image,
                digest,
                volume: config.get(&disk).and_then(|v| v.split(',').next()).unwrap_or_default().to_owned(),
                storage: config.get(&disk).and_then(|v| v.split(':').next()).unwrap_or_default().to_owned(),
                disk_bytes: config.disk_bytes(&disk).unwrap_or(guest.disk_max),
            });
        }
        Ok(found)
    }

    pub(super) async fn read_pool(&self, pool: String) -> Result<Vec<Vmid>, PveError> {
        // The list with `poolid` shows the members even without Pool.Audit; the pool's own path does not.
        let rows: Vec<Row> = self.read("/pools", &[("poolid", config_id(&pool)?)]).await?;
        let members = rows.iter().filter_map(|row| row.get("members")?.as_array()).flatten();
        let ids = members.filter_map(|m| Vmid::try_from(raw::count(m.as_object()?, "vmid")).ok());
        Ok(ids.filter(|id| *id > 0).collect())
    }

    pub(super) async fn read_permissions(&self) -> Result<Permissions, PveError> {
        let row: Row = self.read("/access/permissions", &[]).await?;
        let privileges = |value: &serde_json::Value| {
            value.as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default()
        };
        Ok(row.iter().map(|(path, value)| (path.clone(), privileges(value))).collect())
    }

    pub(super) async fn read_datacenter_firewall(&self) -> Result<FirewallState, PveError> {
        match self.read::<Row>("/cluster/firewall/options", &[]).await {
            Ok(row) if raw::flag(&row, "enable") => Ok(FirewallState::On),
            Ok(_) => Ok(FirewallState::Off),
            Err(error) if error.is_forbidden() => Ok(FirewallState::Unknown),
            Err(error) => Err(error),
        }
    }
}
