//! Hears in what the other side sends whether a person is there: a screen's client asks for pictures as long
//! as it is open, so bytes alone say nothing.

use ez_protocol::console::ConsoleKind;

/// Listens to one direction of one console.
#[derive(Debug)]
pub(super) struct Ear {
    kind: ConsoleKind,
    /// The beginning of the message at hand.
    head: Vec<u8>,
    /// Bytes of a message that say nothing more.
    skip: u64,
    /// An RFB client first says whether it shares the screen.
    begun: bool,
    /// Something was not understood: from here on, every byte counts.
    lost: bool,
}

/// What follows the head of a message.
enum Next {
    /// More of the head is needed.
    More,
    /// So many bytes follow, and whether it was a person.
    Body(u64, bool),
    /// Not a message that is known.
    Unknown,
}

impl Ear {
    pub(super) fn new(kind: ConsoleKind) -> Self {
        Self { kind, head: Vec::with_capacity(16), skip: 0, begun: kind == ConsoleKind::Serial, lost: false }
    }

    /// Whether a person typed or clicked in these bytes.
    pub(super) fn hears(&mut self, bytes: &[u8]) -> bool {
        let mut person = false;
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            if self.lost {
                return true;
            }
            if self.skip > 0 {
                let step = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
                self.skip -= step as u64;
                rest = &rest[step..];
                continue;
            }
            rest = after;
            if !self.begun {
                self.begun = true;
                continue;
            }
            self.head.push(*first);
            let next = match self.kind {
                ConsoleKind::Vnc => rfb(&self.head),
                ConsoleKind::Serial => serial(&self.head),
            };
            match next {
                Next::More => continue,
                Next::Body(skip, acted) => {
                    self.skip = skip;
                    person |= acted;
                }
                Next::Unknown => {
                    self.lost = true;
                    person = true;
                }
            }
            self.head.clear();
        }
        person
    }
}

/// Messages of an RFB client (RFC 6143, section 7.5).
fn rfb(head: &[u8]) -> Next {
    match *head {
        [0] => Next::Body(19, false),
        [2, _, a, b] => Next::Body(u64::from(u16::from_be_bytes([a, b])) * 4, false),
        [3] => Next::Body(9, false),
        [4] => Next::Body(7, true),
        [5] => Next::Body(5, true),
        // The extended clipboard writes its length as a negative number.
        [6, _, _, _, a, b, c, d] => {
            Next::Body(u64::from(i32::from_be_bytes([a, b, c, d]).unsigned_abs()), true)
        }
        [2 | 6, ..] if head.len() < 8 => Next::More,
        _ => Next::Unknown,
    }
}

/// Messages to Proxmox's terminal proxy.
fn serial(head: &[u8]) -> Next {
    match head {
        [b'2'] => Next::Body(0, false),
        [b'0' | b'1'] | [b'0' | b'1', b':'] => Next::More,
        [b'0', b':', length @ .., b':'] => match number(length) {
            Some(length) => Next::Body(length, length > 0),
            None => Next::Unknown,
        },
        [b'1', b':', size @ .., b':'] => {
            let mut parts = size.split(|b| *b == b':');
            let columns = parts.next().and_then(number);
            match (columns, parts.next().map(number), parts.next()) {
                (Some(_), None, _) => Next::More,
                (Some(_), Some(Some(_)), None) => Next::Body(0, false),
                _ => Next::Unknown,
            }
        }
        [b'0' | b'1', b':', digits @ ..]
            if head.len() < 16 && digits.iter().all(|b| b.is_ascii_digit() || *b == b':') =>
        {
            Next::More
        }
        _ => Next::Unknown,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a screen's client says without a person.
    fn machine() -> Vec<u8> {
        let mut out = vec![1];
        out.extend([0; 20]);
        out.extend([2, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        for _ in 0..3 {
            out.extend([3, 1, 0, 0, 0, 0, 3, 32, 2, 88]);
        }
        out
    }

    #[test]
    fn a_screen_that_is_only_drawn_has_nobody_in_front_of_it() {
        let mut ear = Ear::new(ConsoleKind::Vnc);
        assert!(!ear.hears(&machine()));
        assert!(ear.hears(&[4, 1, 0, 0, 0, 0, 0, 97]), "a key");
        assert!(!ear.hears(&[3, 1, 0, 0, 0, 0, 3, 32, 2, 88]));
        assert!(ear.hears(&[5, 0, 0, 1, 0, 1]), "the mouse");
        assert!(ear.hears(&[6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i']), "pasted");
        assert!(!ear.hears(&[3, 1, 0, 0, 0, 0, 3, 32, 2, 88]));
        assert!(ear.hears(&[200]), "what is not understood counts");
        assert!(ear.hears(&[3]), "for ever");
    }

    #[test]
    fn a_line_that_is_only_kept_has_nobody_typing() {
        let mut ear = Ear::new(ConsoleKind::Serial);
        assert!(!ear.hears(b"21:80:24:2"));
        assert!(ear.hears(b"0:3:ls\n"));
        assert!(!ear.hears(b"21:132:43:0:0:2"));
        assert!(ear.hears(b"0:x:"));
    }

    proptest! {
        #[test]
        fn it_hears_the_same_however_the_bytes_are_cut(cut in 1_usize..12) {
            let mut whole = machine();
            whole.extend([4, 1, 0, 0, 0, 0, 0, 97]);
            let mut ear = Ear::new(ConsoleKind::Vnc);
            let heard = whole.chunks(cut).filter(|part| ear.hears(part)).count();
            prop_assert_eq!(heard, 1);
            let mut ear = Ear::new(ConsoleKind::Serial);
            let heard = b"21:80:24:0:11:1:80:24:2222".chunks(cut).filter(|part| ear.hears(part)).count();
            prop_assert_eq!(heard, 1);
        }

        #[test]
        fn any_bytes_are_heard_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), serial: bool) {
            let mut ear = Ear::new(if serial { ConsoleKind::Serial } else { ConsoleKind::Vnc });
            ear.hears(&bytes);
            prop_assert!(ear.head.len() <= 16);
        }
    }
}
