//! Errors in one line.

use std::error::Error;

/// An error and the errors below it, each said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_and_are_not_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            #[source]
            cause: Option<Box<Link>>,
        }
        let link = |text, cause: Option<Link>| Link {
            text,
            cause: cause.map(Box::new),
        };
        let full = link("no file", None);
        assert_eq!(
            chain(&link("could not open", Some(full))),
            "could not open: no file"
        );
        let full = link("no file", None);
        assert_eq!(
            chain(&link("trouble: no file", Some(full))),
            "trouble: no file"
        );
    }
}
