//! HTTPS as pveproxy speaks it: one listener per node, the transport layer's own refusals, the
//! delay of a 401, the request log.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::access::{self, Caller};
use super::call::{Call, Check, Router};
use super::cluster::{Cluster, Ctx};
use super::foreign::Foreign;
use super::inject::{Kind, NodeFaults};
use super::params::Params;
use super::reply::{ApiError, ApiResult, Response, render, transport, unauthorized};
use crate::serve::Withheld;

const BODY_LIMIT: usize = 512 * 1024;

/// What one listener needs.
pub(crate) struct Server {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) router: Arc<Router>,
    pub(crate) node: String,
    pub(crate) faults: Arc<NodeFaults>,
}

/// A request that was taken and whose caller is known.
struct Asked<'r> {
    method: String,
    /// Below `/api2/json`.
    path: String,
    extjs: bool,
    found: Option<(&'r Call, Params)>,
    caller: Option<Caller>,
    params: Params,
}

/// Serves until the cluster is stopped.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let stop = server.cluster.stop.clone();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        if server.faults.away.is_away() {
            server.faults.away.reset(stream);
            continue;
        }
        let (server, acceptor, stop) = (server.clone(), acceptor.clone(), stop.clone());
        tokio::spawn(async move {
            let away = server.faults.away.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = away.cut() => {}
                () = connection(server, stream, acceptor) => {}
            }
        });
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream, acceptor: TlsAcceptor) {
    let _latency_only = stream.set_nodelay(true);
    let mut first = [0u8; 1];
    match stream.peek(&mut first).await {
        Ok(1) if first[0] != 0x16 => return redirect(stream).await,
        Ok(1) => {}
        _ => return,
    }
    let Ok(Ok(tls)) = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await else {
        return;
    };
    let service = service_fn(move |request| {
        let server = server.clone();
        // A client that hangs up stops neither the call nor its line in the log.
        let answered = tokio::spawn(async move { server.answer(request).await });
        async move { answered.await.unwrap_or(Err(Withheld)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection");
    }
}

/// Plain http on the TLS port: 301 to https.
async fn redirect(mut stream: TcpStream) {
    let mut buffer = vec![0u8; 4096];
    let n = stream.read(&mut buffer).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    let path = text.split_whitespace().nth(1).unwrap_or("/");
    let host = text
        .lines()
        .find_map(|l| l.strip_prefix("Host: ").or_else(|| l.strip_prefix("host: ")))
        .unwrap_or("localhost");
    let answer = format!(
        "HTTP/1.1 301 Moved Permanently\r\nLocation: https://{}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        host.trim()
    );
    let _client_may_be_gone = stream.write_all(answer.as_bytes()).await;
}

impl Server {
    async fn late(&self) {
        tokio::time::sleep(Duration::from_millis(self.cluster.timing.unauthorized_ms)).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response, Withheld> {
        match self.read(request).await {
            Ok(asked) => self.carry_out(asked).await,
            Err(refused) => Ok(refused),
        }
    }

    /// Takes a request off the wire; what the transport layer refuses never becomes a call.
    async fn read(&self, request: Request<Incoming>) -> Result<Asked<'_>, Response> {
        let (head, body) = request.into_parts();
        let method = head.method.as_str().to_owned();
        if ![Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&head.method) {
            return Err(transport(501, &format!("method '{method}' not available"), false));
        }
        let path = head.uri.path();
        let (rest, extjs) = match (path.strip_prefix("/api2/json"), path.strip_prefix("/api2/extjs")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Err(transport(500, &format!("no such file '{path}'"), true)),
        };
        let segments: Vec<String> = rest
            .split('/')
            .filter(|s| !s.is_empty())
            .map(|s| percent_decode_str(s).decode_utf8_lossy().into_owned())
            .collect();
        let found = self.router.find(&method, &segments);
        let world = found.as_ref().is_some_and(|(call, _)| matches!(call.check, Check::World));
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let now = self.cluster.clock.seconds();
        let has_cookie = head
            .headers
            .get(header::COOKIE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|c| c.contains("PVEAuthCookie="));
        let caller = match self.cluster.read(|s| access::authenticate(s, authorization, now)).await {
            Ok(caller) => Some(caller),
            // Tickets are not simulated: any is as good as forged.
            Err(_) if !world && has_cookie => {
                self.late().await;
                return Err(unauthorized("Authentication failed!"));
            }
            Err(_) if world => None,
            Err(reason) => {
                self.late().await;
                return Err(unauthorized(reason));
            }
        };
        let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        let length: usize = head
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        if is_chunked {
            return Err(transport(501, "chunked transfer encoding not supported", true));
        }
        if length > BODY_LIMIT {
            // Taken off the wire, so that a client that writes before it reads gets the answer.
            let _not_kept = Limited::new(body, 4 * BODY_LIMIT).collect().await;
            return Err(transport(501, "for data too large", true));
        }
        if length > 0 && matches!(head.method, Method::GET | Method::DELETE) {
            return Err(transport(501, &format!("Unexpected content for method '{method}'"), true));
        }
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let bytes = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return Err(transport(501, "for data too large", true)),
        };
        let mut params = Params::from_form(head.uri.query().unwrap_or(""));
        match read_body(&kind, &bytes) {
            Ok(given) => params.extend(given),
            Err(ApiError::Transport(status, text)) => return Err(transport(status, &text, true)),
            Err(other) => return Err(render(Err(other), extjs)),
        }
        let path = rest.to_owned();
        Ok(Asked { method, path, extjs, found, caller, params })
    }

    /// Carries a call out, or meets the fault that is armed for it, and writes the log line.
    async fn carry_out(&self, asked: Asked<'_>) -> Result<Response, Withheld> {
        let Asked { method, path, extjs, found, caller, params } = asked;
        let logged = params.to_json(is_secret);
        let fault = self.faults.call(&method, &path);
        let kind = fault.as_ref().map(|rule| rule.fault);
        if kind == Some(Kind::VmidTaken) {
            self.take_vmid(&params).await;
        }
        let mut response = None;
        let mut strange = None;
        if !kind.is_some_and(Kind::comes_before) {
            let result = self.run(&method, &path, found, caller.clone(), params).await;
            strange = self.fault_of_task(&result);
            if matches!(result, Err(ApiError::Login(_))) {
                self.late().await;
            }
            response = Some(render(result, extjs));
        }
        if let Some(rule) = fault.filter(|rule| rule.fault != Kind::VmidTaken) {
            if rule.fault.refuses() {
                response = Some(rule.refusal(extjs));
            }
            tokio::time::sleep(Duration::from_millis(rule.delay_ms.unwrap_or(0))).await;
            if let Some(ms) = rule.down_ms {
                self.faults.away.leave_for(Duration::from_millis(ms));
            }
        }
        let mut line = json!({
            "method": method, "path": path, "params": logged, "at": self.cluster.clock.now(),
            "node": self.node, "status": response.as_ref().map(|r| r.status().as_u16()),
        });
        if let Some(caller) = caller {
            line["token"] = caller.token.is_some().into();
            line["caller"] = caller.id().into();
        }
        // A call that the daemon did not live to answer met a fault as well.
        let restarted = self.faults.away.is_away().then_some("restart");
        if let Some(word) = kind.or(strange).map(Kind::word).or(restarted) {
            line["fault"] = word.into();
        }
        self.cluster.log_request(&line);
        let silent = matches!(kind, Some(Kind::DropAnswer | Kind::Restart));
        response.filter(|_| !silent).ok_or(Withheld)
    }

    async fn run(
        &self,
        method: &str,
        path: &str,
        found: Option<(&Call, Params)>,
        caller: Option<Caller>,
        params: Params,
    ) -> ApiResult {
        let Some((call, bound)) = found else {
            return Err(ApiError::NotImplemented(format!("Method '{method} {path}' not implemented")));
        };
        let caller = caller.unwrap_or(Caller { user: String::new(), token: None });
        self.router.run(call, self.context(caller, params, bound)?).await
    }

    /// A foreign VM takes the VMID that a clone is about to ask for.
    async fn take_vmid(&self, params: &Params) {
        let Some(newid) = params.get("newid").and_then(|id| id.parse().ok()).filter(|id| *id >= 100) else {
            return;
        };
        let at = self.cluster.clock.now();
        let taken = self
            .cluster
            .change("fault.vmid-taken", |s| s.add_foreign(&self.node, at, Foreign::plain(newid)))
            .await;
        if let Err(reason) = taken {
            tracing::debug!(newid, reason, "a foreign VM was to take a VMID");
        }
    }

    /// The fault that the task met which a call has started.
    fn fault_of_task(&self, result: &ApiResult) -> Option<Kind> {
        let upid = result.as_ref().ok()?.data.as_str().filter(|text| text.starts_with("UPID:"))?;
        self.cluster.faults(upid.split(':').nth(1)?)?.of_task(upid)
    }

    fn context(&self, caller: Caller, mut params: Params, bound: Params) -> Result<Ctx, ApiError> {
        for (name, _) in bound.iter() {
            if params.get(name).is_some_and(|given| given != bound.text(name)) {
                return Err(ApiError::parameter(
                    name,
                    "duplicate parameter (already defined in URI) with conflicting values!",
                ));
            }
        }
        let node = match bound.get("node") {
            None | Some("localhost") => self.node.clone(),
            Some(node) if self.cluster.nodes.contains_key(node) => node.to_owned(),
            Some(node) => {
                return Err(ApiError::died(format!(
                    "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
                )));
            }
        };
        params.extend(bound);
        if params.contains("node") {
            params.set("node", &node);
        }
        Ok(Ctx { cluster: self.cluster.clone(), node, caller, params })
    }
}

fn read_body(kind: &str, bytes: &[u8]) -> Result<Params, ApiError> {
    if bytes.is_empty() {
        return Ok(Params::default());
    }
    let text = String::from_utf8_lossy(bytes);
    let kind = kind.split(';').next().unwrap_or("").trim();
    match kind {
        "" | "application/x-www-form-urlencoded" => Ok(Params::from_form(&text)),
        "application/json" => serde_json::from_str(&text)
            .map(|v| Params::from_json(&v))
            .map_err(|e| ApiError::Transport(500, super::params::broken_json(&text, e.column()))),
        other => Err(ApiError::Transport(506, format!("upload 'Content-Type '{other}' not implemented"))),
    }
}

fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "cipassword" | "secret" | "otp" | "encryption-key" | "vncticket")
}
