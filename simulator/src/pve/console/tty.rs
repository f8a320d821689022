//! A guest that can be typed to: it asks for a name and a password, takes any, and then has a shell that knows
//! a handful of words.

/// What the guest waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waits {
    Name,
    Password(String),
    Command(String),
}

/// One terminal of a guest.
#[derive(Clone, Debug)]
pub(crate) struct Tty {
    host: String,
    place: &'static str,
    waits: Waits,
    typed: String,
}

/// Longest line that is kept.
const LINE: usize = 200;

impl Tty {
    /// A terminal, and what it shows first.
    pub(crate) fn new(host: &str, place: &'static str) -> (Self, Vec<u8>) {
        let tty = Self { host: host.to_owned(), place, waits: Waits::Name, typed: String::new() };
        let first = format!("\r\nSimulated GNU/Linux {} {}\r\n\r\n{}", tty.host, place, tty.prompt());
        (tty, first.into_bytes())
    }

    fn prompt(&self) -> String {
        match &self.waits {
            Waits::Name => format!("{} login: ", self.host),
            Waits::Password(_) => "Password: ".to_owned(),
            Waits::Command(user) => format!("{user}@{}:~$ ", self.host),
        }
    }

    /// One byte from the keyboard; what the guest writes to it.
    pub(crate) fn key(&mut self, byte: u8) -> Vec<u8> {
        match byte {
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.typed);
                let said = self.line(&line);
                format!("\r\n{said}{}", self.prompt()).into_bytes()
            }
            3 => {
                self.typed.clear();
                format!("^C\r\n{}", self.prompt()).into_bytes()
            }
            8 | 0x7f => match self.typed.pop() {
                Some(_) if !self.hides() => b"\x08 \x08".to_vec(),
                _ => Vec::new(),
            },
            0x20..=0x7e if self.typed.len() < LINE => {
                self.typed.push(char::from(byte));
                if self.hides() { Vec::new() } else { vec![byte] }
            }
            _ => Vec::new(),
        }
    }

    fn hides(&self) -> bool {
        matches!(self.waits, Waits::Password(_))
    }

    /// A whole line; what the guest says to it.
    fn line(&mut self, line: &str) -> String {
        let line = line.trim();
        match self.waits.clone() {
            Waits::Name if line.is_empty() => String::new(),
            Waits::Name => {
                self.waits = Waits::Password(line.to_owned());
                String::new()
            }
            Waits::Password(user) => {
                self.waits = Waits::Command(user);
                format!("Welcome to {} on {}.\r\n", self.host, self.place)
            }
            Waits::Command(user) => match line.split_once(' ').unwrap_or((line, "")) {
                ("", _) => String::new(),
                ("echo", rest) => format!("{rest}\r\n"),
                ("hostname", _) => format!("{}\r\n", self.host),
                ("whoami", _) => format!("{user}\r\n"),
                ("exit" | "logout", _) => {
                    self.waits = Waits::Name;
                    "\r\n".to_owned()
                }
                ("colours", _) => {
                    let cell = |n: u8| format!("\x1b[{n}m colour {n} \x1b[0m\r\n");
                    (31..=36).map(cell).collect()
                }
                ("clear", _) => "\x1b[2J\x1b[H".to_owned(),
                (word, _) => format!("{word}: command not found\r\n"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(tty: &mut Tty, text: &str) -> String {
        let out: Vec<u8> = text.bytes().flat_map(|byte| tty.key(byte)).collect();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_lets_anybody_in_echoes_and_hides_the_password() {
        let (mut tty, first) = Tty::new("web-1", "tty1");
        assert!(String::from_utf8(first).unwrap().ends_with("web-1 login: "));
        assert_eq!(type_in(&mut tty, "adx\x7fa"), "adx\x08 \x08a");
        assert_eq!(type_in(&mut tty, "\r"), "\r\nPassword: ");
        assert_eq!(type_in(&mut tty, "secret"), "");
        assert_eq!(type_in(&mut tty, "\r"), "\r\nWelcome to web-1 on tty1.\r\nada@web-1:~$ ");
        assert_eq!(type_in(&mut tty, "echo hi\r"), "echo hi\r\nhi\r\nada@web-1:~$ ");
        assert_eq!(type_in(&mut tty, "sudo\x03"), "sudo^C\r\nada@web-1:~$ ");
        assert_eq!(type_in(&mut tty, "exit\r"), "exit\r\n\r\nweb-1 login: ");
    }
}
