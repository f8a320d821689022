//! A text screen of 80 × 25 cells and its picture. Rows that changed are remembered until they were sent.

use super::font;

pub(super) const COLUMNS: usize = 80;
pub(super) const ROWS: usize = 25;
/// Dots of one cell.
const CELL: (usize, usize) = (8, 16);
pub(super) const WIDTH: u16 = 640;
pub(super) const HEIGHT: u16 = 400;

const PAPER: [u8; 3] = [0x10, 0x14, 0x18];
const INK: [u8; 3] = [0xd8, 0xde, 0xe4];

/// How a client wants its pixels: four bytes each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// Places of red, green and blue.
    pub(super) shifts: [u8; 3],
    pub(super) big_endian: bool,
}

impl Default for Format {
    fn default() -> Self {
        Self { shifts: [16, 8, 0], big_endian: false }
    }
}

impl Format {
    fn pixel(self, colour: [u8; 3]) -> [u8; 4] {
        let parts = colour.iter().zip(self.shifts);
        let value = parts.fold(0_u32, |value, (part, shift)| value | u32::from(*part) << (shift & 24));
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }
}

/// The screen.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    cells: Vec<[u8; COLUMNS]>,
    at: (usize, usize),
    changed: [bool; ROWS],
    /// Inside an escape sequence, which this screen only passes over.
    escape: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { cells: vec![[b' '; COLUMNS]; ROWS], at: (0, 0), changed: [true; ROWS], escape: false }
    }

    /// Shows what a guest writes.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.changed[self.at.1] = true;
        for byte in bytes {
            match *byte {
                0x1b => self.escape = true,
                byte if self.escape => self.escape = !byte.is_ascii_alphabetic(),
                b'\r' => self.at.0 = 0,
                b'\n' => self.down(),
                8 => self.at.0 = self.at.0.saturating_sub(1),
                byte @ 0x20..=0x7e => {
                    if self.at.0 == COLUMNS {
                        self.at.0 = 0;
                        self.down();
                    }
                    self.cells[self.at.1][self.at.0] = byte;
                    self.changed[self.at.1] = true;
                    self.at.0 += 1;
                }
                _ => {}
            }
        }
        self.changed[self.at.1] = true;
    }

    fn down(&mut self) {
        if self.at.1 + 1 < ROWS {
            self.at.1 += 1;
        } else {
            self.cells.remove(0);
            self.cells.push([b' '; COLUMNS]);
            self.changed = [true; ROWS];
        }
    }

    /// Everything has to be sent again.
    pub(super) fn forget(&mut self) {
        self.changed = [true; ROWS];
    }

    /// A picture of what changed since the last, as one RFB rectangle: its place, height and pixels.
    pub(super) fn take(&mut self, format: Format) -> Option<(u16, u16, Vec<u8>)> {
        let first = self.changed.iter().position(|row| *row)?;
        let last = self.changed.iter().rposition(|row| *row)?;
        self.changed = [false; ROWS];
        let (paper, ink) = (format.pixel(PAPER), format.pixel(INK));
        let mut out = Vec::with_capacity((last - first + 1) * CELL.1 * usize::from(WIDTH) * 4);
        for row in first..=last {
            for line in 0..CELL.1 {
                for column in 0..COLUMNS {
                    let cursor = (column, row) == self.at && line >= 13;
                    let dots = match (line.checked_sub(1), self.cells[row][column]) {
                        // Each of the seven rows is two lines high.
                        (Some(line), character) if line < 14 => font::rows(character)[line / 2],
                        _ => 0,
                    };
                    for dot in 0..CELL.0 {
                        let on = cursor || (1..6).contains(&dot) && dots & (1 << (5 - dot)) != 0;
                        out.extend_from_slice(if on { &ink } else { &paper });
                    }
                }
            }
        }
        let place = |row: usize| u16::try_from(row * CELL.1).unwrap_or(0);
        Some((place(first), place(last - first + 1), out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_drawn_again_and_it_is_not_blank() {
        let mut screen = Screen::new();
        let (y, height, pixels) = screen.take(Format::default()).unwrap();
        assert_eq!((y, height), (0, HEIGHT));
        assert_eq!(pixels.len(), usize::from(WIDTH) * usize::from(HEIGHT) * 4);
        assert!(screen.take(Format::default()).is_none());
        screen.write(b"\r\n\r\nlogin: ");
        let (y, height, pixels) = screen.take(Format::default()).unwrap();
        assert_eq!((y, height), (0, 48));
        assert!(pixels.chunks(4).any(|pixel| pixel == Format::default().pixel(INK)));
        screen.write(b"a");
        let (y, height, _) = screen.take(Format::default()).unwrap();
        assert_eq!((y, height), (32, 16));
        for _ in 0..40 {
            screen.write(b"\r\nline");
        }
        assert_eq!(screen.take(Format::default()).unwrap().1, HEIGHT, "it scrolled");
        screen.write(&[b'x'; 200]);
        assert!(screen.at.0 <= COLUMNS && screen.at.1 < ROWS);
    }
}
