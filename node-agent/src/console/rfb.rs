//! The two greetings of RFB 3.8 that the agent speaks: as a client to the host, whose password it answers,
//! and as a server to the other side, to which it offers security type None. After them it only relays.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::des;

const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// Security types: none at all, and a challenge answered with a password.
const NONE: u8 = 1;
const PASSWORD: u8 = 2;
/// Longest reason that is read.
const REASON: usize = 1_024;

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

/// Logs in to the host's end.
pub(super) async fn log_in<S>(host: &mut S, password: &str) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut version = [0; 12];
    host.read_exact(&mut version).await?;
    if &version != VERSION {
        let said = String::from_utf8_lossy(&version).trim().to_owned();
        return Err(wrong(format!("it speaks {said:?}, RFB 3.8 is needed")));
    }
    host.write_all(VERSION).await?;
    let mut types = vec![0; host.read_u8().await?.into()];
    if types.is_empty() {
        return Err(wrong(reason(host).await?));
    }
    host.read_exact(&mut types).await?;
    if types.contains(&PASSWORD) {
        host.write_all(&[PASSWORD]).await?;
        let mut challenge = [0; 16];
        host.read_exact(&mut challenge).await?;
        host.write_all(&des::answer(challenge, password.as_bytes())).await?;
    } else if types.contains(&NONE) {
        host.write_all(&[NONE]).await?;
    } else {
        return Err(wrong(format!("it offers only the security types {types:?}")));
    }
    match host.read_u32().await? {
        0 => Ok(()),
        _ => Err(wrong(reason(host).await?)),
    }
}

async fn reason<S: AsyncRead + Unpin>(host: &mut S) -> Result<String> {
    let said = usize::try_from(host.read_u32().await?).unwrap_or(REASON);
    let mut text = vec![0; said.min(REASON)];
    host.read_exact(&mut text).await?;
    Ok(format!("it says {:?}", String::from_utf8_lossy(&text)))
}

/// Greets the other side, which needs no password: what stands before the relay was its grant.
pub(super) async fn welcome<R, W>(from: &mut R, to: &mut W) -> Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    to.write_all(VERSION).await?;
    to.flush().await?;
    let mut version = [0; 12];
    from.read_exact(&mut version).await?;
    if &version != VERSION {
        return Err(wrong("RFB 3.8 is spoken here"));
    }
    to.write_all(&[1, NONE]).await?;
    to.flush().await?;
    if from.read_u8().await? != NONE {
        return Err(wrong("only security type None is offered"));
    }
    to.write_all(&[0; 4]).await?;
    to.flush().await
}
