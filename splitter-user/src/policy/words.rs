//! Words in messages: quoting of what the user wrote, and guesses at what was meant.

/// Most characters of the user's text that a message repeats.
const MAX_QUOTED: usize = 60;

/// The user's text between backticks, control characters escaped, cut when long.
pub(super) fn quote(text: &str) -> String {
    let escaped: String = text.chars().take(MAX_QUOTED).flat_map(escape).collect();
    let more = if text.chars().nth(MAX_QUOTED).is_some() { "..." } else { "" };
    format!("`{escaped}{more}`")
}

fn escape(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// The word of `known` that is nearest to `word`, if it is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are not slips of a finger, and distance costs the product of the lengths.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |known: &str| {
        let known = known.to_lowercase();
        // An abbreviation is as near as one slip.
        let is_short = word.len() >= 3 && known.starts_with(&word);
        if is_short { 1 } else { strsim::osa_distance(&word, &known) }
    };
    let near = known.into_iter().map(|known| (distance(known), known));
    near.filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// "did you mean" where a guess exists, else the list of what is allowed.
pub(crate) fn suggest(word: &str, known: &[&str], lead: &str) -> String {
    let all = list(known);
    match nearest(word, known.iter().copied()) {
        Some(guess) => format!("did you mean `{guess}`? {lead}: {all}"),
        None => format!("{lead}: {all}"),
    }
}

/// Words between backticks, separated by commas; the first 20.
pub(super) fn list(words: &[&str]) -> String {
    let mut all: Vec<String> = words.iter().take(20).map(|word| format!("`{word}`")).collect();
    if words.len() > all.len() {
        all.push(format!("and {} more", words.len() - all.len()));
    }
    all.join(", ")
}

/// The rule for names of services, namespaces, subsets and routes.
pub(crate) const NAME_RULE: &str = "a name is 1 to 63 characters of a-z, 0-9, `-` and `.`, and \
                                    begins and ends with a letter or digit";

/// Whether a name keeps [`NAME_RULE`].
pub(crate) fn is_name(name: &str) -> bool {
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
        && bytes.iter().all(|byte| is_edge(byte) || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "v1", "1", "a-b.c", "purchase-history", &"a".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", ".a", "a_b", "a/b", "ä", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn guesses_are_near() {
        let known = ["backends", "balance"];
        assert_eq!(nearest("backend", known), Some("backends"));
        assert_eq!(nearest("Balance", known), Some("balance"));
        assert_eq!(nearest("weights", known), None);
        assert_eq!(nearest("proto", ["port", "protocol"]), Some("protocol"));
    }

    #[test]
    fn quotes_cut_and_escape() {
        assert_eq!(quote("a\u{1b}b"), "`a\\u{1b}b`");
        assert!(quote(&"x".repeat(1000)).len() < 70);
    }
}
