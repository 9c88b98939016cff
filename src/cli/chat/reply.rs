//! The text of a reply as it comes: whole characters only, and nothing of what may turn out to be its end.

/// Holds back what could be the beginning of a text that ends the reply.
pub struct Stop {
    end: Option<&'static str>,
    held: String,
}

/// What of a reply can be shown now.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// Text that is certain.
    pub text: String,
    /// Whether the reply is over.
    pub ended: bool,
}

impl Stop {
    /// A reply that ends at `end`, if anything.
    pub fn at(end: Option<&'static str>) -> Stop {
        Stop { end, held: String::new() }
    }

    /// Takes a piece.
    pub fn push(&mut self, piece: &str) -> Shown {
        self.held.push_str(piece);
        let Some(end) = self.end else {
            return Shown { text: std::mem::take(&mut self.held), ended: false };
        };
        if let Some(at) = self.held.find(end) {
            self.held.truncate(at);
            return Shown { text: std::mem::take(&mut self.held), ended: true };
        }
        // The longest tail that `end` begins with stays.
        let starts = |at: &usize| self.held.is_char_boundary(*at) && end.starts_with(&self.held[*at..]);
        let at = (0..self.held.len()).find(starts).unwrap_or(self.held.len());
        let tail = self.held.split_off(at);
        Shown { text: std::mem::replace(&mut self.held, tail), ended: false }
    }

    /// What was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_never_shown_and_nothing_before_it_is_lost() {
        let mut stop = Stop::at(Some("\nUser:"));
        let mut text = String::new();
        for piece in ["Good", " day.\n", "Us", "eful?\n", "Use", "r: no"] {
            let shown = stop.push(piece);
            text.push_str(&shown.text);
            if shown.ended {
                assert_eq!(text, "Good day.\nUseful?");
                return;
            }
        }
        panic!("it did not end: {text:?}");
    }

    #[test]
    fn what_was_held_comes_when_nothing_follows() {
        let mut stop = Stop::at(Some("\nUser:"));
        assert_eq!(stop.push("é\nUs"), Shown { text: "é".to_owned(), ended: false });
        assert_eq!(stop.finish(), "\nUs");
        assert_eq!(Stop::at(None).push("\nUser:"), Shown { text: "\nUser:".to_owned(), ended: false });
    }
}
