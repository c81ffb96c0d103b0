//! Requests that change or remove what is at an address.

use reqwest::Method;
use serde_json::Value;

use super::Client;
use crate::process::Failure;

impl Client {
    /// Puts `body` at `path`.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// Removes what is at `path`, with an idempotency key if one is given.
    pub async fn delete(&self, path: &str, key: Option<&str>) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, path).timeout(super::PATIENCE);
        self.checked(super::keyed(request, key).send().await).await.map(|_| ())
    }
}
