//! The signature of a delivery, by which a receiver knows who sent it and when.

use std::fmt::Write;

use ring::hmac::{Context, HMAC_SHA256, Key};
use secrecy::{ExposeSecret, SecretString};

/// The header's name.
pub(super) const HEADER: &str = "x-sutazai-signature";

/// The header's value: `t=UNIX,v1=HEX`, where `HEX` is the HMAC-SHA256 of `UNIX.body` under the secret.
pub(super) fn sign(secret: &SecretString, body: &[u8], now_unix: u64) -> String {
    let mut context = Context::with_key(&Key::new(HMAC_SHA256, secret.expose_secret().as_bytes()));
    context.update(format!("{now_unix}.").as_bytes());
    context.update(body);
    let mut text = format!("t={now_unix},v1=");
    for byte in context.sign().as_ref() {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value is Python's: `hmac.new(b"whsec_test", b'1700000000.{"seq":1}', "sha256").hexdigest()`.
    #[test]
    fn the_signature_is_what_a_receiver_computes() {
        let signed = sign(&"whsec_test".into(), br#"{"seq":1}"#, 1_700_000_000);
        assert_eq!(signed, "t=1700000000,v1=926c3c48823e4dc937cdb0992313bcbbc472579d779ab54f0d4e09e4049838aa");
    }

    #[test]
    fn the_time_the_body_and_the_secret_are_all_signed() {
        let signed = [("a", "b", 1), ("a", "b", 2), ("a", "c", 1), ("d", "b", 1)]
            .map(|(secret, body, at)| sign(&secret.into(), body.as_bytes(), at).split_off("t=1,".len()));
        for (index, one) in signed.iter().enumerate() {
            assert!(!signed[..index].contains(one), "{signed:?}");
        }
    }
}
