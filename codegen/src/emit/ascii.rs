//! PTX is ASCII: kernel headers are written with the symbols of mathematics and leave with their names.

/// A symbol and what PTX comments say instead.
const NAMES: &[(char, &str)] = &[
    ('Σ', "sum"),
    ('√', "sqrt"),
    ('·', "*"),
    ('−', "-"),
    ('×', "x"),
    ('≤', "<="),
    ('≥', ">="),
    ('∞', "inf"),
    ('→', "->"),
    ('…', "..."),
    ('²', "^2"),
    ('γ', "gamma"),
    ('ᵢ', "_i"),
    ('–', "-"),
];

/// `text` in ASCII; a symbol without a name becomes `?`.
pub(super) fn spell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match NAMES.iter().find(|(symbol, _)| *symbol == c) {
            Some((_, name)) => out.push_str(name),
            None if c.is_ascii() => out.push(c),
            None => out.push('?'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn symbols_become_words() {
        assert_eq!(super::spell("y = Σ a·b − √x ∀"), "y = sum a*b - sqrtx ?");
    }
}
