//! Which cases of a bench the command line asks for.

/// Whether it names this case, or none at all.
#[must_use]
pub fn wanted(case: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    named.peek().is_none() || named.any(|name| name == case)
}
