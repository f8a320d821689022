//! The greeting of Proxmox's terminal proxy: one line with user and ticket, answered by `OK`. Then bytes come
//! as the guest writes them; to the guest go the messages `0:<length>:<bytes>`, `1:<columns>:<rows>:` and
//! `2` (still here), which the other side writes itself.
//!
//! Source: the README of Proxmox's xtermjs package, which describes the proxy's protocol.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Logs in to the host's end.
pub(super) async fn log_in<S>(host: &mut S, user: &str, ticket: &str) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    host.write_all(format!("{user}:{ticket}\n").as_bytes()).await?;
    let mut answer = [0; 2];
    host.read_exact(&mut answer).await?;
    if &answer == b"OK" {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::PermissionDenied, "it did not let us in"))
    }
}
