//! Passwords that the guest agent sets.

use reqwest::Method;
use serde_json::json;

use super::servant::{CONFIG, Q};
use super::world::World;
use crate::pve::state::sha256_hex;

const HASH: &str = "$6$salt$0123456789abcdef";

impl World {
    async fn set_password(&self, user: &str) -> super::world::Reply {
        let given = [("username", user), ("password", HASH), ("crypted", "1")];
        self.post(&format!("{Q}/agent/set-user-password"), &given).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_set_in_the_guest_and_goes_with_its_disk() {
    for (version, right) in [("8.4", "VM.Monitor"), ("9.2", "VM.GuestAgent.Unrestricted")] {
        let mut w = World::new(version).await;
        w.server().await;
        assert_eq!(w.task(Method::POST, &format!("{Q}/snapshot"), &[("snapname", "s1")]).await, "OK");
        w.put(CONFIG, &[("ciuser", "ops"), ("agent", "enabled=0")]).await.data();
        w.control_post("/guest-agent", json!({"after_ms": 600_000})).await;
        w.as_agent("").await;
        let refused = w.set_password("root").await;
        assert_eq!(refused.message(), format!("Permission check failed (/vms/101, {right})"));
        w.as_token(super::world::ROOT);
        let text = async |user: &str| w.set_password(user).await.message().to_owned();
        assert_eq!(text("root").await, "No QEMU guest agent configured");
        w.put(CONFIG, &[("agent", "enabled=1")]).await.data();
        assert_eq!(text("root").await, "VM 101 is not running");
        w.start().await;
        assert_eq!(text("root").await, "QEMU guest agent is not running");
        w.control_post("/guest-agent", json!({"vmid": 101, "answers": true})).await;
        assert_eq!(text("nobody-here").await, "Agent error: child process has failed to set user password");
        w.control_post("/guest-agent", json!({"vmid": 101, "bare": true})).await;
        assert_eq!(text("root").await, "Agent error: cannot find 'passwd' program in PATH");
        w.control_post("/guest-agent", json!({"vmid": 101, "bare": false})).await;
        assert_eq!(w.picture().await["passwords"], json!({}));
        for user in ["root", "ops"] {
            assert_eq!(w.set_password(user).await.data(), &json!({"result": {}}));
        }
        let kept = json!({"sha256": sha256_hex(HASH.as_bytes()), "crypted": true});
        assert_eq!(w.picture().await["passwords"], json!({"root": kept, "ops": kept}));
        for file in ["sim/one/state.sqlite", "sim/one/state.sqlite-wal", "logs/pve-one.jsonl"] {
            let bytes = std::fs::read(w.directory.join(file)).unwrap_or_default();
            let known = bytes.windows(HASH.len()).any(|bytes| bytes == HASH.as_bytes());
            assert!(!known, "{file}: only as a hash of its own");
        }
        assert_eq!(w.task(Method::POST, &format!("{Q}/snapshot/s1/rollback"), &[]).await, "OK");
        assert_eq!(w.picture().await["passwords"], json!({}), "the old disk has the old password");
    }
}
