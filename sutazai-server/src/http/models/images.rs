//! Pictures in requests.

use base64::{Engine, engine::general_purpose::STANDARD};
use sutazai_core::model::Image;

use crate::http::problem::Problem;

/// The first bytes of the kinds of pictures that come without a name.
const KINDS: [(&[u8], &str); 4] =
    [(b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"), (b"RIFF", "image/webp")];

/// The picture in a `data:` URL at `at`. No other is fetched: whoever asks could make this server call whom they cannot reach themselves.
pub(in crate::http) fn of_url(at: &str, url: &str) -> Result<Image, Problem> {
    let refused =
        || Problem::field(at, "a picture is a URL such as data:image/png;base64,…; addresses are not fetched");
    let (kind, data) = url.strip_prefix("data:").and_then(|rest| rest.split_once(',')).ok_or_else(refused)?;
    let media_type = kind.strip_suffix(";base64").and_then(|kind| kind.split(';').next()).ok_or_else(refused)?;
    if !media_type.starts_with("image/") || STANDARD.decode(data).is_err() {
        return Err(refused());
    }
    Ok(Image { media_type: media_type.to_owned(), data: data.to_owned() })
}

/// The picture at `at` in base64 alone; its first bytes say what kind it is.
pub(in crate::http) fn of_base64(at: &str, data: &str) -> Result<Image, Problem> {
    let bytes = STANDARD.decode(data).unwrap_or_default();
    match KINDS.iter().find(|(start, _)| bytes.starts_with(start)) {
        Some((_, kind)) => Ok(Image { media_type: (*kind).to_owned(), data: data.to_owned() }),
        None => Err(Problem::field(at, "a picture is a PNG, JPEG, GIF or WebP file in base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &str = "iVBORw0KGgo=";

    #[test]
    fn pictures_come_as_data_and_nothing_is_fetched() {
        let image = of_url("/a", &format!("data:image/png;base64,{PNG}")).unwrap();
        assert_eq!((&*image.media_type, &*image.data), ("image/png", PNG));
        let named = of_url("/a", &format!("data:image/jpeg;name=x;base64,{PNG}")).unwrap();
        assert_eq!(named.media_type, "image/jpeg");
        for wrong in [
            "http://127.0.0.1/a.png",
            "data:image/png,x",
            "data:text/plain;base64,eA==",
            "data:image/png;base64,?",
            "x",
        ] {
            assert_eq!(of_url("/a", wrong).unwrap_err().faults()[0].path, "/a", "{wrong}");
        }
        assert_eq!(of_base64("/b", PNG).unwrap().media_type, "image/png");
        assert!(of_base64("/b", "eA==").is_err() && of_base64("/b", "?").is_err());
    }
}
