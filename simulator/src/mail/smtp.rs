//! The SMTP side: takes every letter and sends none on.
//!
//! EHLO, HELO, MAIL, RCPT, DATA, RSET, NOOP, VRFY, QUIT; PIPELINING and SIZE (RFC 5321, 1870, 2920).

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{
    inject::{Injector, Rule},
    store::Store,
};

/// The largest letter taken, in bytes.
pub(crate) const LARGEST: usize = 10 * 1024 * 1024;
/// The longest command line and the most recipients (RFC 5321 §4.5.3.1 asks for at least 512 and 100).
const LONGEST_LINE: u64 = 2_048;
const MOST_RECIPIENTS: usize = 100;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(300);

/// The envelope of the letter in the making.
#[derive(Debug, Default)]
struct Envelope {
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
}

/// What to do after an answer.
enum Next {
    Say(String),
    Data,
    Bye,
}

/// Talks to one client until it leaves.
///
/// # Errors
/// The connection breaks, or a line is longer than any command may be.
pub(crate) async fn talk(
    stream: TcpStream,
    peer: SocketAddr,
    store: Store,
    faults: Injector,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut envelope = Envelope::default();
    if let Some(said) = faults.greeting().and_then(Rule::says) {
        return writer.write_all(format!("{said}\r\n").as_bytes()).await;
    }
    writer.write_all(b"220 ez-simulator ESMTP (nothing is delivered)\r\n").await?;
    loop {
        let Some(line) =
            tokio::time::timeout(PATIENCE, read_line(&mut reader)).await.map_err(std::io::Error::other)??
        else {
            return Ok(());
        };
        match answer(&mut envelope, &String::from_utf8_lossy(&line)) {
            Next::Say(said) => writer.write_all(format!("{said}\r\n").as_bytes()).await?,
            Next::Bye => {
                writer.write_all(b"221 2.0.0 Bye\r\n").await?;
                return Ok(());
            }
            Next::Data => {
                writer.write_all(b"354 End with <CR><LF>.<CR><LF>\r\n").await?;
                let letter = tokio::time::timeout(PATIENCE, read_letter(&mut reader))
                    .await
                    .map_err(std::io::Error::other)??;
                let fault = faults.letter();
                let said = match fault.and_then(Rule::says) {
                    Some(refused) => {
                        envelope = Envelope { greeted: true, ..Envelope::default() };
                        refused.to_owned()
                    }
                    None => take(&store, &mut envelope, letter, peer).await,
                };
                if fault == Some(Rule::DropAfterData) {
                    return Ok(());
                }
                writer.write_all(format!("{said}\r\n").as_bytes()).await?;
            }
        }
    }
}

/// Stores the letter before saying that it was taken.
async fn take(store: &Store, envelope: &mut Envelope, letter: Option<Vec<u8>>, peer: SocketAddr) -> String {
    let from = envelope.from.take().unwrap_or_default();
    let to = std::mem::take(&mut envelope.to);
    let Some(raw) = letter else { return format!("552 5.3.4 Larger than {LARGEST} bytes") };
    match store.insert(&from, &to, &raw).await {
        Ok(id) => format!("250 2.0.0 Taken as {id}"),
        Err(error) => {
            tracing::error!(%error, %peer, "a letter could not be stored");
            "451 4.3.0 Not stored, try again".to_owned()
        }
    }
}

fn answer(envelope: &mut Envelope, line: &str) -> Next {
    let line = line.trim_end();
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let say = |said: &str| Next::Say(said.to_owned());
    match verb.to_ascii_uppercase().as_str() {
        "EHLO" => {
            *envelope = Envelope { greeted: true, ..Envelope::default() };
            Next::Say(format!(
                "250-ez-simulator\r\n250-PIPELINING\r\n250-SIZE {LARGEST}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"
            ))
        }
        "HELO" => {
            *envelope = Envelope { greeted: true, ..Envelope::default() };
            say("250 ez-simulator")
        }
        "MAIL" | "RCPT" | "DATA" if !envelope.greeted => say("503 5.5.1 Say EHLO first"),
        "MAIL" => mail(envelope, rest),
        "RCPT" => rcpt(envelope, rest),
        "DATA" if envelope.to.is_empty() => say("503 5.5.1 Name a sender and a recipient first"),
        "DATA" => Next::Data,
        "RSET" => {
            *envelope = Envelope { greeted: envelope.greeted, ..Envelope::default() };
            say("250 2.0.0 Forgotten")
        }
        "NOOP" => say("250 2.0.0 Nothing done"),
        "VRFY" => say("252 2.1.5 Every address is taken"),
        "QUIT" => Next::Bye,
        "STARTTLS" | "AUTH" => say("502 5.5.1 Not here"),
        _ => say("500 5.5.2 No such command"),
    }
}

fn mail(envelope: &mut Envelope, rest: &str) -> Next {
    let Some((address, parameters)) = path(rest, "FROM:") else {
        return Next::Say("501 5.5.4 MAIL FROM:<address>".into());
    };
    if envelope.from.is_some() {
        return Next::Say("503 5.5.1 There is a sender already".into());
    }
    let size = parameters.split_whitespace().find_map(|parameter| {
        parameter.to_ascii_uppercase().strip_prefix("SIZE=").and_then(|size| size.parse::<usize>().ok())
    });
    if size.is_some_and(|size| size > LARGEST) {
        return Next::Say(format!("552 5.3.4 Larger than {LARGEST} bytes"));
    }
    envelope.from = Some(address);
    Next::Say("250 2.1.0 Sender noted".into())
}

fn rcpt(envelope: &mut Envelope, rest: &str) -> Next {
    if envelope.from.is_none() {
        return Next::Say("503 5.5.1 MAIL first".into());
    }
    if envelope.to.len() >= MOST_RECIPIENTS {
        return Next::Say("452 4.5.3 Too many recipients".into());
    }
    match path(rest, "TO:").filter(|(address, _)| address.contains('@')) {
        Some((address, _)) => {
            envelope.to.push(address);
            Next::Say("250 2.1.5 Recipient noted".into())
        }
        None => Next::Say("501 5.1.3 RCPT TO:<name@example.com>".into()),
    }
}

/// The address between angle brackets after `FROM:` or `TO:`, and the parameters behind it.
fn path<'a>(rest: &'a str, word: &str) -> Option<(String, &'a str)> {
    let head = rest.get(..word.len())?;
    let tail = rest.get(word.len()..)?.trim_start();
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    let (address, parameters) = tail.strip_prefix('<')?.split_once('>')?;
    Some((address.to_owned(), parameters))
}

async fn read_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no end of line"));
    }
    Ok(Some(line))
}

/// Reads up to the lone dot and takes the stuffed dots out. `None` if the letter is too large; it is
/// read to its end all the same, so that the dialogue can go on.
async fn read_letter(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut letter = Vec::new();
    let mut fits = true;
    loop {
        let mut line = Vec::new();
        let read = (&mut *reader)
            .take(u64::try_from(LARGEST).unwrap_or(u64::MAX))
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" || line == b".\n" {
            return Ok(fits.then_some(letter));
        }
        let content = line.strip_prefix(b".").unwrap_or(&line);
        fits = fits && letter.len() + content.len() <= LARGEST;
        if fits {
            letter.extend_from_slice(content);
        }
    }
}
