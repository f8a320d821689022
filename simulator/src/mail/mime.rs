//! Just enough MIME to read a letter: headers with encoded words, quoted-printable, base64, multipart.

use data_encoding::BASE64;

/// A letter taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The `From` header, decoded.
    pub(crate) from: String,
    /// The `To` header, decoded.
    pub(crate) to: String,
    /// The `Subject` header, decoded.
    pub(crate) subject: String,
    /// The first plain text.
    pub(crate) text: Option<String>,
    /// The first HTML text.
    pub(crate) html: Option<String>,
}

/// One header as it stands, unfolded.
struct Headers(Vec<(String, String)>);

impl Headers {
    fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value.as_str())
    }
}

/// How deep parts may be nested before the rest is left alone.
const DEEPEST: usize = 8;

/// Reads a whole message. Nothing is refused: what cannot be decoded stays as it is.
pub(crate) fn parse(raw: &[u8]) -> Letter {
    let (headers, body) = split(raw);
    let mut letter = Letter {
        from: words(headers.get("from")),
        to: words(headers.get("to")),
        subject: words(headers.get("subject")),
        ..Letter::default()
    };
    walk(&headers, body, &mut letter, 0);
    letter
}

fn split(raw: &[u8]) -> (Headers, &[u8]) {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |index| index + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim_start());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    (Headers(headers), rest)
}

fn walk(headers: &Headers, body: &[u8], letter: &mut Letter, depth: usize) {
    let kind = headers.get("content-type");
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.starts_with("multipart/") {
        let Some(boundary) = parameter(kind, "boundary").filter(|_| depth < DEEPEST) else { return };
        for part in parts(body, &boundary) {
            let (headers, body) = split(part);
            walk(&headers, body, letter, depth + 1);
        }
        return;
    }
    if headers.get("content-disposition").to_ascii_lowercase().starts_with("attachment") {
        return;
    }
    let bytes = match headers.get("content-transfer-encoding").to_ascii_lowercase().as_str() {
        "quoted-printable" => quoted_printable(body, false),
        "base64" => base64(body),
        _ => body.to_vec(),
    };
    let text = characters(&bytes, parameter(kind, "charset").as_deref()).replace("\r\n", "\n");
    match media.as_str() {
        "" | "text/plain" if letter.text.is_none() => letter.text = Some(text),
        "text/html" if letter.html.is_none() => letter.html = Some(text),
        _ => {}
    }
}

/// A parameter of a structured header: `charset=utf-8`, `boundary="x y"`.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|part| {
        let (known, value) = part.split_once('=')?;
        known.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// The parts between the boundary's lines; preamble and epilogue are dropped.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let (mark, end) = (format!("--{boundary}"), format!("--{boundary}--"));
    let mut found = Vec::new();
    let (mut at, mut begin) = (0, None);
    while at < body.len() {
        let next =
            body[at..].iter().position(|byte| *byte == b'\n').map_or(body.len(), |index| at + index + 1);
        let line = body[at..next].trim_ascii_end();
        if line == mark.as_bytes() || line == end.as_bytes() {
            if let Some(begin) = begin {
                found.push(&body[begin..at]);
            }
            begin = (line == mark.as_bytes()).then_some(next);
        }
        at = next;
    }
    found.extend(begin.map(|begin| &body[begin..]));
    found
}

fn base64(body: &[u8]) -> Vec<u8> {
    let packed: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(&packed).unwrap_or(packed)
}

/// Quoted-printable, or the `Q` encoding of headers, where `_` is a space.
fn quoted_printable(body: &[u8], header: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        match (body[at], body.get(at + 1), body.get(at + 2)) {
            (b'=', Some(b'\r'), Some(b'\n')) => at += 3,
            (b'=', Some(b'\n'), _) => at += 2,
            (b'=', Some(high), Some(low)) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high * 16 + low);
                    at += 3;
                }
                _ => {
                    out.push(b'=');
                    at += 1;
                }
            },
            (b'_', ..) if header => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn characters(bytes: &[u8], charset: Option<&str>) -> String {
    match charset.map(str::to_ascii_lowercase).as_deref() {
        Some("iso-8859-1" | "latin1" | "windows-1252") => {
            bytes.iter().map(|byte| char::from(*byte)).collect()
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Decodes encoded words (`=?utf-8?B?…?=`, `=?utf-8?Q?…?=`); blanks between two of them vanish.
pub(crate) fn words(header: &str) -> String {
    let mut out = String::new();
    let mut rest = header;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let Some((decoded, length)) = word(&rest[start..]) else {
            out.push_str(&rest[..start + 2]);
            rest = &rest[start + 2..];
            after_word = false;
            continue;
        };
        let between = &rest[..start];
        if !(after_word && between.trim().is_empty()) {
            out.push_str(between);
        }
        out.push_str(&decoded);
        rest = &rest[start + length..];
        after_word = true;
    }
    out.push_str(rest);
    out
}

/// The encoded word at the beginning of `text` and how long it is there.
fn word(text: &str) -> Option<(String, usize)> {
    let mut fields = text.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, tail) = (fields.next()?, fields.next()?, fields.next()?);
    let end = tail.find("?=")?;
    let payload = &tail[..end];
    let bytes = match encoding {
        "B" | "b" => BASE64.decode(payload.as_bytes()).ok()?,
        "Q" | "q" => quoted_printable(payload.as_bytes(), true),
        _ => return None,
    };
    let length = 2 + charset.len() + 1 + encoding.len() + 1 + end + 2;
    Some((characters(&bytes, Some(charset)), length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_letter_with_two_views_and_encoded_words() {
        let raw = "From: EZ <ez@example.com>\r\nTo: =?utf-8?Q?J=C3=BCrgen?= <j@example.com>\r\nSubject: =?utf-8?B?U2VydmVy?=\r\n =?utf-8?Q?_bereit_=E2=9C=93?=\r\n\
            MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=\"b 1\"\r\n\r\npreamble\r\n--b 1\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe =\r\nund =3D\r\n--b 1\r\nContent-Type: text/html; charset=utf-8\r\n\
            Content-Transfer-Encoding: base64\r\n\r\nPHA+SGFs\r\nbG88L3A+\r\n--b 1--\r\nepilogue";
        let letter = parse(raw.as_bytes());
        assert_eq!(
            (letter.from.as_str(), letter.to.as_str()),
            ("EZ <ez@example.com>", "Jürgen <j@example.com>")
        );
        assert_eq!(letter.subject, "Server bereit ✓");
        assert_eq!(letter.text.as_deref(), Some("Grüße und =\n"));
        assert_eq!(letter.html.as_deref(), Some("<p>Hallo</p>"));
    }

    #[test]
    fn a_plain_letter_without_mime_headers() {
        let letter = parse(b"Subject: hi\n\nbody\n");
        assert_eq!((letter.subject.as_str(), letter.text.as_deref()), ("hi", Some("body\n")));
    }

    #[test]
    fn attachments_are_not_the_text() {
        let raw = b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\nContent-Disposition: attachment; filename=a\n\nno\n--x\nContent-Type: text/plain\n\nyes\n--x--\n";
        assert_eq!(parse(raw).text.as_deref(), Some("yes\n"));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&raw);
        }

        #[test]
        fn base64_words_come_back(text in "\\PC{1,40}") {
            let encoded = format!("=?utf-8?B?{}?=", BASE64.encode(text.as_bytes()));
            prop_assert_eq!(words(&encoded), text);
        }
    }
}
