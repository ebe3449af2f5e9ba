//! The three parts of a message, in the style of PostgreSQL's.

/// The three parts of a message.
pub(super) struct Words {
    pub error: String,
    pub detail: String,
    pub hint: String,
}

pub(super) fn words(
    error: impl Into<String>,
    detail: impl Into<String>,
    hint: impl Into<String>,
) -> Words {
    Words {
        error: error.into(),
        detail: detail.into(),
        hint: hint.into(),
    }
}
