//! What the stories of this crate share: a signed order, a journal in a directory of its own.

pub(crate) mod pki;

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use ez_protocol::{
    InstallId, InstanceId, NodeId, ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, KeyRole, PayloadType, TrustedKey},
    image::{ImageOrder, ImageSource},
    order::{Audience, Cause, InstanceRef, InstanceSpec, Op, ProvisioningOrder},
};

use crate::{
    clock::ManualClock,
    entropy::SeededEntropy,
    intake::{self, Node, Read},
    journal::{Admission, Journal},
    pve::fake::FAKE_DIGEST,
};

/// The time of all stories.
pub(crate) const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
/// First VMID of the stories.
pub(crate) const VMID: u32 = 1_000;

fn id(n: u8) -> [u8; 10] {
    [n; 10]
}

pub(crate) fn install() -> InstallId {
    InstallId::generate(NOW, id(1))
}

pub(crate) fn node_id() -> NodeId {
    NodeId::generate(NOW, id(2))
}

pub(crate) fn instance(n: u8) -> InstanceId {
    InstanceId::generate(NOW, id(n))
}

pub(crate) fn order_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// Signs the next trust documents.
pub(crate) fn trust_key() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

pub(crate) fn trusted(role: KeyRole) -> Vec<TrustedKey> {
    let year = 365 * 24 * 3_600_000;
    vec![TrustedKey {
        key: order_key().verifying_key(),
        role,
        not_before: UnixMillis(NOW.0 - year),
        not_after: UnixMillis(NOW.0 + year),
    }]
}

/// This node at [`NOW`], in epoch 3.
pub(crate) fn node() -> Node {
    Node { install: install(), node: node_id(), epoch: 3, now: NOW, clock_suspect: false, disk_low: false }
}

pub(crate) fn spec() -> InstanceSpec {
    serde_json::from_value(serde_json::json!({
        "hostname": "web-1", "service": "active", "vcpus": 2, "memory_mib": 2048, "disk_gib": 20,
        "image": {"name": "debian-13", "digest": FAKE_DIGEST},
        "network": {"bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "dns": ["9.9.9.9"], "firewall": true,
                    "addresses": [{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"}]},
        "ssh_keys": [], "password_hash": "$6$saltsaltsalt$hashhashhashhash",
    }))
    .unwrap()
}

/// An order of sequence `seq`; its id follows from the sequence.
pub(crate) fn order(seq: u64, generation: u64, op: Op) -> ProvisioningOrder {
    let tail = u8::try_from(100 + seq).unwrap();
    ProvisioningOrder {
        order_id: ProvisioningOrderId::generate(NOW, id(tail)),
        install: install(),
        aud: Audience { node: node_id(), epoch: 3 },
        seq,
        iat: NOW,
        nbf: NOW,
        exp: UnixMillis(NOW.0 + 600_000),
        instance: InstanceRef { uuid: instance(10), vmid: VMID },
        generation,
        op,
        cause: Cause { order: None, actor: "system".to_owned() },
    }
}

pub(crate) fn ensure(seq: u64, generation: u64) -> ProvisioningOrder {
    order(seq, generation, Op::Ensure(Box::new(spec())))
}

/// An image order for this node, changed and signed.
pub(crate) fn sign_image(image: &ImageSource, change: impl FnOnce(&mut ImageOrder)) -> Vec<u8> {
    let mut order = ImageOrder {
        order_id: ProvisioningOrderId::generate(NOW, id(77)),
        install: install(),
        aud: Audience { node: node_id(), epoch: 3 },
        iat: NOW,
        nbf: NOW,
        exp: UnixMillis(NOW.0 + 600_000),
        image: image.clone(),
        cause: Cause { order: None, actor: "operator:cli".to_owned() },
    };
    change(&mut order);
    Envelope::sign(&order_key(), PayloadType::Image, order.to_bytes().unwrap()).encode()
}

pub(crate) fn sign(order: &ProvisioningOrder) -> Vec<u8> {
    Envelope::sign(&order_key(), PayloadType::Order, order.to_bytes().unwrap()).encode()
}

pub(crate) fn read(order: &ProvisioningOrder) -> Read {
    intake::read(&sign(order), &trusted(KeyRole::Order), NOW).unwrap()
}

/// A journal in a directory that lives as long as this.
pub(crate) struct Books {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) journal: Journal,
}

impl Books {
    pub(crate) async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let journal = open(&dir).await;
        Self { dir, journal }
    }

    /// A journal, new or the copy of another, in memory where the machine has a file system for that:
    /// for tests that try every way there is, and not what an fsync keeps.
    pub(crate) async fn quick(copy_of: Option<&std::path::Path>) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = Arc::new(dir.unwrap());
        if let Some(file) = copy_of {
            std::fs::copy(file, dir.path().join("journal.sqlite")).unwrap();
        }
        let journal = open(&dir).await;
        Self { dir, journal }
    }

    /// The same file, opened anew, as after a crash.
    pub(crate) async fn again(&self) -> Self {
        Self { dir: Arc::clone(&self.dir), journal: open(&self.dir).await }
    }

    /// Puts an order through the intake, without bounds of a policy.
    pub(crate) async fn admit(&self, order: &ProvisioningOrder) -> Admission {
        self.admit_as(order, node()).await
    }

    pub(crate) async fn admit_as(&self, order: &ProvisioningOrder, node: Node) -> Admission {
        let read = read(order);
        let question = read.question();
        self.journal
            .admit(question, node.now, move |facts| intake::judge(&read, &node, &|_, _, _| Ok(()), facts))
            .await
            .unwrap()
    }

    /// As [`Books::admit`], where nothing but acceptance will do.
    pub(crate) async fn accept(&self, order: &ProvisioningOrder) {
        self.accept_unheard(order).await;
        self.journal.confirm(order.order_id, NOW).await;
    }

    /// Accepts an order; the control plane does not get to know.
    pub(crate) async fn accept_unheard(&self, order: &ProvisioningOrder) {
        let verdict = self.admit(order).await;
        assert!(matches!(verdict, Admission::Accept(..)), "{verdict:?}");
    }
}

async fn open(dir: &tempfile::TempDir) -> Journal {
    let clock = ManualClock::at(NOW);
    Journal::open(&dir.path().join("journal.sqlite"), &clock, &SeededEntropy::new(1)).await.unwrap()
}
