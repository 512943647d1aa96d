//! One line for an error and its causes.

use std::error::Error;
use std::fmt;

use crate::Printable;

/// Shows an error and all its causes, joined by colons, in one line. Texts are [`Printable`],
/// because messages of the other side can be part of them; file names in them are escaped already.
#[derive(Debug, Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = Some(self.0);
        let mut separator = "";
        while let Some(error) = next {
            write!(f, "{separator}{}", Printable(&error.to_string()))?;
            separator = ": ";
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    #[test]
    fn an_error_and_its_causes_are_one_line() {
        let cause = Layer {
            text: "two\nlines",
            source: None,
        };
        let error = Layer {
            text: "f: cannot open it",
            source: Some(Box::new(cause)),
        };
        let shown = ErrorChain(&error).to_string();
        assert_eq!(shown, "f: cannot open it: two\\nlines");
    }
}
