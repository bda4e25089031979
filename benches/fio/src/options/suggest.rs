//! The known name nearest to a misspelt one.

#![forbid(unsafe_code)]

/// The candidate with the fewest edits, if there are few enough for it to be
/// likely what was meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    // A name of a job file may be any length; the distance is quadratic.
    let name: String = name.chars().take(64).collect();
    let allowed = (name.chars().count() / 2).clamp(1, 6);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One typing error away is found; something unlike all names is not.
    #[test]
    fn finds_typing_errors_and_nothing_else() {
        let names = ["rwmixread", "runtime", "bs"];
        assert_eq!(nearest("rwmixred", names.into_iter()), Some("rwmixread"));
        assert_eq!(nearest("runtmie", names.into_iter()), Some("runtime"));
        assert_eq!(nearest("sb", names.into_iter()), Some("bs"));
        assert_eq!(nearest("colour", names.into_iter()), None);
        assert_eq!(nearest("", names.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), names.into_iter()), None);
    }
}
