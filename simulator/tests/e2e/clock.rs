//! A wall clock that a story sets, for programs that know nothing of it: `libfaketime` answers for the system.
//! Monotonic time goes on as it is, so connections and time-outs do not notice.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use ez_protocol::UnixMillis;
use ez_simulator::wall::{SystemWall, WallClock as _};

use crate::support::{Demo, not_run, until};

/// Time that has passed beyond the real one.
#[derive(Clone)]
pub struct Clock {
    library: PathBuf,
    /// The offset, read at every look at the clock.
    file: Arc<tempfile::TempPath>,
    minutes: Arc<Mutex<u32>>,
}

impl Clock {
    /// `None`, and a note, where the library is not installed.
    pub fn install(story: &str) -> Option<Self> {
        let architectures = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
        let candidates = architectures.map(|path| path.join("faketime/libfaketimeMT.so.1"));
        let Some(library) = candidates.into_iter().find(|path| path.is_file()) else {
            not_run(story, "libfaketime is not installed");
            return None;
        };
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&file, "+0").unwrap();
        Some(Self { library, file: Arc::new(file), minutes: Arc::default() })
    }

    /// What a program needs in its environment to live by this clock.
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = self.file.display().to_string();
        let pairs = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DISABLE_SHM", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// What the programs take for the time now.
    pub fn now(&self) -> UnixMillis {
        UnixMillis(SystemWall.now_ms() + i64::from(*self.minutes.lock().unwrap()) * 60_000)
    }

    /// Lets hours pass at once, for everybody at the same moment.
    pub fn pass(&self, hours: u32) {
        self.pass_minutes(hours * 60);
    }

    /// Lets minutes pass at once, for everybody at the same moment.
    pub fn pass_minutes(&self, minutes: u32) {
        let mut all = self.minutes.lock().unwrap();
        *all += minutes;
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("+{}m", *all)).unwrap();
        std::fs::rename(next, self.file.as_ref()).unwrap();
    }

    /// Lets days pass at once, for a fleet whose certificates run out meanwhile: the control plane makes a new one for the next
    /// handshake, and each host is enrolled again and takes its servers over.
    pub async fn live(&self, demo: &Demo, hours: u32) {
        self.pass(hours);
        for (index, node) in demo.state()["nodes"].as_array().unwrap().iter().enumerate() {
            let token =
                demo.control_plane(&["node", "token", node["name"].as_str().unwrap(), "--json"]).await;
            let token: serde_json::Value = serde_json::from_slice(&token.stdout).unwrap();
            let token = token["token"].as_str().unwrap();
            until("the host to be enrolled again", Duration::from_secs(60), || async {
                demo.join(index, token).await.status.success().then_some(())
            })
            .await;
            demo.kill(&format!("/pids/agents/{index}")).await;
        }
        demo.nodes_online().await;
    }
}
