//! What the node and its VMs use.

use serde::Deserialize;
use serde_json::Value;

use super::ProxmoxHypervisor;
use crate::pve::{
    GuestLoad, Loads, PveError, ThinPool, Vmid,
    raw::{self, Row},
};

/// A row of `/cluster/resources`: only what is read. A cluster has thousands of them, each with twenty fields more.
#[derive(Deserialize)]
struct Resource {
    #[serde(rename = "type")]
    kind: Option<Value>,
    node: Option<Value>,
    status: Option<Value>,
    vmid: Option<Value>,
    uptime: Option<Value>,
    cpu: Option<Value>,
    mem: Option<Value>,
    netin: Option<Value>,
    netout: Option<Value>,
    diskread: Option<Value>,
    diskwrite: Option<Value>,
}

fn is(field: Option<&Value>, wanted: &str) -> bool {
    field.and_then(Value::as_str) == Some(wanted)
}

fn number(field: Option<&Value>) -> Option<u64> {
    raw::value_text(field?)?.parse().ok()
}

fn fraction(field: Option<&Value>) -> Option<f64> {
    raw::value_text(field?)?.parse().ok()
}

impl Resource {
    /// A running VM. One of which the node's daemon knows nothing yet is `unknown`, and its counters are missing:
    /// that is not the same as zero.
    fn guest(&self) -> Option<GuestLoad> {
        if !is(self.kind.as_ref(), "qemu") || !is(self.status.as_ref(), "running") {
            return None;
        }
        Some(GuestLoad {
            vmid: Vmid::try_from(number(self.vmid.as_ref())?).ok()?,
            uptime_secs: number(self.uptime.as_ref()).filter(|secs| *secs > 0)?,
            cpu: fraction(self.cpu.as_ref()).unwrap_or(0.0),
            memory_used: number(self.mem.as_ref()).unwrap_or(0),
            net_in: number(self.netin.as_ref())?,
            net_out: number(self.netout.as_ref())?,
            disk_read: number(self.diskread.as_ref()).unwrap_or(0),
            disk_write: number(self.diskwrite.as_ref()).unwrap_or(0),
        })
    }

    fn host(&self) -> Option<(f64, u64)> {
        if !is(self.kind.as_ref(), "node") {
            return None;
        }
        Some((fraction(self.cpu.as_ref())?, number(self.mem.as_ref())?))
    }
}

impl ProxmoxHypervisor {
    /// One call for everything: `/nodes/{node}/qemu` has no disk counters unless it asks every VM.
    pub(super) async fn read_loads(&self) -> Result<Loads, PveError> {
        let rows: Vec<Resource> = self.read("/cluster/resources", &[]).await?;
        let here = |row: &&Resource| is(row.node.as_ref(), &self.node);
        Ok(Loads {
            host: rows.iter().filter(here).find_map(Resource::host),
            guests: rows.iter().filter(here).filter_map(Resource::guest).collect(),
        })
    }

    pub(super) async fn read_thin_pools(&self) -> Result<Vec<ThinPool>, PveError> {
        let rows: Vec<Row> = self.read(&self.node_path("/disks/lvmthin"), &[]).await?;
        let pool = |row: &Row| {
            Some(ThinPool {
                name: format!("{}/{}", raw::text(row, "vg")?, raw::text(row, "lv")?),
                size: raw::count(row, "lv_size"),
                used: raw::count(row, "used"),
                metadata_size: raw::count(row, "metadata_size"),
                metadata_used: raw::count(row, "metadata_used"),
            })
        };
        Ok(rows.iter().filter_map(pool).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_recorded_and_a_vm_nothing_is_known_of_is_none() {
        let rows: Vec<Resource> = serde_json::from_str(
            r#"[{"id":"node/pve1","type":"node","node":"pve1","status":"online","cpu":0.25,"mem":1215004672,"level":""},
                {"id":"node/pve2","type":"node","node":"pve2","status":"unknown"},
                {"netin":110,"disk":0,"mem":"8738420","type":"qemu","netout":0,"maxcpu":1,"diskwrite":0,"status":"running",
                 "cpu":0.0871738002520515,"vmid":102,"name":"vps-102","uptime":42,"diskread":0,"node":"pve1"},
                {"id":"qemu/103","type":"qemu","node":"pve1","vmid":103,"status":"unknown"},
                {"id":"qemu/104","type":"qemu","node":"pve1","vmid":104,"status":"stopped","uptime":0,"netin":0,"netout":0},
                {"id":"storage/pve1/local","type":"storage","node":"pve1","status":"available"}]"#,
        )
        .unwrap();
        let hosts: Vec<_> = rows.iter().filter_map(Resource::host).collect();
        assert_eq!(hosts, [(0.25, 1_215_004_672)]);
        let guests: Vec<_> = rows.iter().filter_map(Resource::guest).collect();
        let wanted = GuestLoad {
            vmid: 102,
            uptime_secs: 42,
            cpu: 0.087_173_800_252_051_5,
            memory_used: 8_738_420,
            net_in: 110,
            ..GuestLoad::default()
        };
        assert_eq!(guests, [wanted]);
    }
}
