//! Lists of ids in one statement. Both dialects count their parameters, and a statement has a fixed text: a list is asked
//! for in parts of [`MANY`], and places that are left over ask for nobody.

/// As many ids as one statement takes.
pub const MANY: usize = 25;

/// What fills the places of such a statement.
pub fn padded<T: ToString>(ids: &[T]) -> impl Iterator<Item = String> {
    (0..MANY).map(move |index| ids.get(index).map(ToString::to_string).unwrap_or_default())
}
