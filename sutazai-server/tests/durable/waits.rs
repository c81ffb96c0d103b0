//! Tasks that wait hold nothing that could get lost.

use serde_json::json;

use crate::{
    binary::{Server, http},
    client::{block_on, completed, submit, until},
};

pub(crate) fn waits_outlive_kills(store: &[&str]) {
    block_on(async {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(data.path(), store);
        let url = server.url();
        let told = submit(&url, "dev.wait", json!({ "signal": "go", "ms": 600_000 })).await;
        let timed = submit(&url, "dev.wait", json!({ "signal": "go", "ms": 1_000 })).await;
        for id in [&told, &timed] {
            until(&url, id, |task| task["state"] == "waiting").await;
        }
        server.kill();
        server = Server::start_with(data.path(), store);
        let url = server.url();
        assert_eq!(completed(&url, &timed).await["output"], json!({ "signal": null }));
        let signal = http().post(format!("{url}/api/v1/tasks/{told}/signals/go")).json(&json!({ "n": 1 }));
        assert_eq!(signal.send().await.unwrap().status(), 202);
        server.kill(); // what was acknowledged is kept
        server = Server::start_with(data.path(), store);
        assert_eq!(completed(&server.url(), &told).await["output"], json!({ "signal": { "n": 1 } }));
    });
}
