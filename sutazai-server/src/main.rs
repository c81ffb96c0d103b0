//! The program. Everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything can speak TLS; an error means that an embedder chose a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    sutazai_server::cli::main().into()
}
