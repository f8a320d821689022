//! Talking to systemd: readiness, watchdog and status, as datagrams to `NOTIFY_SOCKET`.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

/// Says nothing where nobody listens.
pub(super) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    pub(super) fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let to = var("NOTIFY_SOCKET").and_then(|name| open(&name));
        // Half of the time systemd would wait, as its manual advises.
        let watchdog = var("WATCHDOG_USEC")
            .and_then(|text| text.parse().ok())
            .filter(|micros| *micros > 0)
            .map(|micros| Duration::from_micros(micros) / 2);
        Self { to, watchdog }
    }

    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.to.is_some())
    }

    pub(super) fn say(&self, message: &str) {
        if let Some((socket, to)) = &self.to {
            // Nobody is less alive because systemd did not hear it.
            let _ = socket.send_to_addr(message.as_bytes(), to);
        }
    }
}

fn open(name: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let to = match name.strip_prefix('@') {
        Some(hidden) => SocketAddr::from_abstract_name(hidden).ok()?,
        None => SocketAddr::from_pathname(name).ok()?,
    };
    Some((UnixDatagram::unbound().ok()?, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_what_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { to: open(path.to_str().unwrap()), watchdog: None };
        notifier.say("READY=1");
        let mut buffer = [0; 64];
        let n = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        Notifier { to: None, watchdog: None }.say("nobody hears this");
    }
}
