//! What to say about a key nobody knows: the one that was probably meant, or all there are.

/// A reason for [`super::Problem`].
pub(crate) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match known.clone().map(|key| (distance(name, key), key)).min() {
        // Up to three slips, but never more than half of the word.
        Some((slips, key)) if slips <= 3.min(name.len() / 2) => {
            format!("is not a known key; did you mean {key}?")
        }
        _ => format!("is not a known key; known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// Edits between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_anything_else_is_answered_with_the_list() {
        let known = ["pool", "storages", "vmid_first"];
        assert_eq!(unknown("vmid_frist", known.into_iter()), "is not a known key; did you mean vmid_first?");
        assert_eq!(
            unknown("bandwidth", known.into_iter()),
            "is not a known key; known are pool, storages, vmid_first"
        );
        assert!(unknown("x", known.into_iter()).contains("known are"), "nothing is like one letter");
    }
}
