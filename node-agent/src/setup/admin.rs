//! Two ways to speak to Proxmox as an administrator.

use std::{path::Path, process::Stdio};

use futures::{FutureExt as _, future::BoxFuture};
use proxmox_api::client::{Client as _, Method};
use serde_json::{Map, Value};
use tokio::process::Command;

use crate::pve::{PveAddress, PveError, client::PveHttp};

/// What is done with a path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read.
    Get,
    /// Make something new.
    Create,
    /// Change something.
    Set,
    /// Remove something.
    Delete,
}

/// Parameters of a call.
pub type Parameters<'a> = &'a [(&'a str, String)];

/// Proxmox's API with an administrator's rights.
pub trait AdminApi: Send + Sync {
    /// Calls `path` (below `/api2/json`); the answer is the `data` part.
    fn call<'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        parameters: Parameters<'a>,
    ) -> BoxFuture<'a, Result<Value, PveError>>;

    /// How it is asked, for people.
    fn how(&self) -> String;
}

/// As root on the host itself: `pvesh`, started directly, without a shell.
#[derive(Debug, Default)]
pub struct PveshAdmin;

impl PveshAdmin {
    async fn run(verb: Verb, path: &str, parameters: Parameters<'_>) -> Result<Value, PveError> {
        let word = match verb {
            Verb::Get => "get",
            Verb::Create => "create",
            Verb::Set => "set",
            Verb::Delete => "delete",
        };
        let call = format!("pvesh {word} {path}");
        let mut command = Command::new("pvesh");
        command.args([word, path, "--output-format", "json"]).stdin(Stdio::null()).kill_on_drop(true);
        for (key, value) in parameters {
            command.arg(format!("--{key}")).arg(value);
        }
        let output = command.output().await.map_err(|error| PveError::Unreachable {
            call: call.clone(),
            reason: format!("{error} (pvesh is part of Proxmox VE; elsewhere use --admin-token-file)"),
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
            return Err(PveError::Refused { call, status: 500, message, errors: Default::default() });
        }
        match text.trim() {
            "" => Ok(Value::Null),
            // Calls that answer a bare text print it without quotes.
            json => Ok(serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()))),
        }
    }
}

impl AdminApi for PveshAdmin {
    fn call<'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        parameters: Parameters<'a>,
    ) -> BoxFuture<'a, Result<Value, PveError>> {
        Self::run(verb, path, parameters).boxed()
    }

    fn how(&self) -> String {
        "as root through pvesh".to_owned()
    }
}

/// From anywhere: HTTPS with an administrator's API token.
#[derive(Debug)]
pub struct TokenAdmin {
    http: PveHttp,
    how: String,
}

impl TokenAdmin {
    /// An administrator at `address`.
    ///
    /// # Errors
    /// [`PveError::Invalid`] if the address or the token cannot be used.
    pub fn new(address: &PveAddress) -> Result<Self, PveError> {
        let id = address.token.split('=').next().unwrap_or_default();
        Ok(Self { http: PveHttp::new(address)?, how: format!("at {} as {id}", address.url) })
    }

    /// As [`PveHttp::rereading`].
    #[must_use]
    pub fn rereading(self, token_file: &Path) -> Self {
        Self { http: self.http.rereading(token_file), ..self }
    }
}

impl AdminApi for TokenAdmin {
    fn call<'a>(
        &'a self,
        verb: Verb,
        path: &'a str,
        parameters: Parameters<'a>,
    ) -> BoxFuture<'a, Result<Value, PveError>> {
        let map: Map<String, Value> =
            parameters.iter().map(|(key, value)| ((*key).to_owned(), Value::String(value.clone()))).collect();
        async move {
            let (method, in_query) = match verb {
                Verb::Get => (Method::Get, true),
                Verb::Create => (Method::Post, false),
                Verb::Set => (Method::Put, false),
                Verb::Delete => (Method::Delete, true),
            };
            let (body, query) = if in_query { (None, Some(&map)) } else { (Some(&map), None) };
            self.http.request_with_body_and_query(method, path, body, query).await
        }
        .boxed()
    }

    fn how(&self) -> String {
        self.how.clone()
    }
}
