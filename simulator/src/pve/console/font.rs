//! Letters of five by seven dots, drawn for this simulator. Each is seven rows, a row one digit of base 32: its
//! five bits are the dots from left to right.

const GLYPHS: [&[u8; 7]; 95] = [
    b"0000000", b"4444404", b"aaa0000", b"aavavaa", b"4fke5u4", b"op248j3", b"cik8lid", b"4480000",
    b"2488842", b"8422248", b"04lel40", b"044v440", b"0000c48", b"000v000", b"00000cc", b"11248gg",
    b"ehjlphe", b"4c4444e", b"eh1248v", b"v2421he", b"26aiv22", b"vgu11he", b"68guhhe", b"v124888",
    b"ehhehhe", b"ehhf12c", b"0cc0cc0", b"0cc0c48", b"248g842", b"00v0v00", b"8421248", b"eh12404",
    b"eh1dlle", b"ehhvhhh", b"uhhuhhu", b"ehggghe", b"sihhhis", b"vgguggv", b"vgguggg", b"ehgnhhf",
    b"hhhvhhh", b"e44444e", b"72222ic", b"hikokih", b"ggggggv", b"hrllhhh", b"hhpljhh", b"ehhhhhe",
    b"uhhuggg", b"ehhhlid", b"uhhukih", b"fgge11u", b"v444444", b"hhhhhhe", b"hhhhha4", b"hhhllla",
    b"hha4ahh", b"hhha444", b"v1248gv", b"e88888e", b"gg84211", b"e22222e", b"4ah0000", b"000000v",
    b"8420000", b"00e1fhf", b"ggmphhu", b"00egghe", b"11djhhf", b"00ehvge", b"698s888", b"0fhhf1e",
    b"ggmphhh", b"40c444e", b"20622ic", b"ggikoki", b"c44444e", b"00qllhh", b"00mphhh", b"00ehhhe",
    b"00uhugg", b"00djf11", b"00mpggg", b"00ege1u", b"88s8896", b"00hhhjd", b"00hhha4", b"00hhlla",
    b"00ha4ah", b"00hhf1e", b"00v248v", b"2448442", b"4444444", b"8442448", b"0008l20",
];

/// The dots of a character: seven rows of five bits, the highest on the left. Unknown ones are a box.
pub(super) fn rows(character: u8) -> [u8; 7] {
    let glyph = usize::from(character).checked_sub(0x20).and_then(|at| GLYPHS.get(at));
    glyph.map_or([31; 7], |digits| {
        digits.map(|digit| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_printable_character_is_its_own_picture() {
        let pictures: BTreeSet<[u8; 7]> = (0x20..0x7f).map(rows).collect();
        assert_eq!(pictures.len(), 95);
        assert!(pictures.iter().flatten().all(|row| *row < 32));
        assert_eq!(rows(b'T'), [31, 4, 4, 4, 4, 4, 4]);
    }
}
