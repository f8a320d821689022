//! The calls the simulator knows and the order of checks that each passes.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::access::{Access, Caller};
use super::cluster::Ctx;
use super::params::Params;
use super::reply::{ApiError, ApiResult};
use super::schema::{Spec, check_params};

/// Who may make a call.
#[derive(Clone, Copy)]
pub(crate) enum Check {
    /// Anybody, even without a token.
    World,
    /// Every user.
    Everyone,
    /// All of these privileges on the path (a template).
    All(&'static str, &'static [&'static str]),
    /// One of these privileges on the path (a template).
    Any(&'static str, &'static [&'static str]),
    /// A rule of its own.
    Own(fn(&Access<'_>, &Caller, &Params) -> Result<(), ApiError>),
}

type Handler = Arc<dyn Fn(Ctx) -> BoxFuture<'static, ApiResult> + Send + Sync>;

/// One call.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) tables: &'static [&'static str],
    pub(crate) check: Check,
    /// Whether an API token may use it.
    pub(crate) token: bool,
    pub(crate) handler: Handler,
    pub(crate) spec: Spec,
}

/// Describes one call.
pub(crate) fn call<F>(
    method: &'static str,
    path: &'static str,
    tables: &'static [&'static str],
    check: Check,
    handler: impl Fn(Ctx) -> F + Send + Sync + 'static,
) -> Call
where
    F: Future<Output = ApiResult> + Send + 'static,
{
    let handler: Handler = Arc::new(move |ctx| Box::pin(handler(ctx)));
    Call { method, path, tables, check, token: true, handler, spec: Spec::default() }
}

/// Parameters that stand in a path and have the same rule everywhere.
fn path_table(name: &str) -> &'static str {
    match name {
        "node" => "node s fmt=pve-node",
        "vmid" => "vmid i 100..999999999 fmt=pve-vmid",
        "storage" => "storage s fmt=pve-storage-id",
        "snapname" => "snapname s max=40 fmt=pve-configid",
        "poolid" => "poolid s fmt=pve-poolid",
        "roleid" => "roleid s fmt=pve-roleid",
        "userid" => "userid s max=64 fmt=pve-userid",
        "tokenid" => "tokenid s re=tokenid",
        "upid" => "upid s",
        "volume" => "volume s",
        _ => "",
    }
}

/// All calls of one version.
pub(crate) struct Router {
    calls: Vec<Call>,
    major: u32,
}

impl Router {
    pub(crate) fn new(major: u32) -> Router {
        let mut calls = super::api::calls();
        for call in &mut calls {
            let mut tables = call.tables.to_vec();
            let own = Spec::parse(&tables, major);
            for part in call.path.split('/') {
                if let Some(name) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'))
                    && own.params.iter().all(|p| p.name != name)
                {
                    tables.push(path_table(name));
                }
            }
            call.spec = Spec::parse(&tables, major);
        }
        Router { calls, major }
    }

    #[cfg(test)]
    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Finds the call for a decoded path; the most literal template wins. `{volume}` takes the rest.
    pub(crate) fn find(&self, method: &str, segments: &[String]) -> Option<(&Call, Params)> {
        let mut best: Option<(usize, &Call, Params)> = None;
        for call in self.calls.iter().filter(|c| c.method == method) {
            let template: Vec<&str> = call.path.split('/').filter(|s| !s.is_empty()).collect();
            let takes_rest = template.last() == Some(&"{volume}") && segments.len() >= template.len();
            if template.len() != segments.len() && !takes_rest {
                continue;
            }
            let mut bound = Params::default();
            let mut literal = 0;
            let mut fits = true;
            for (i, part) in template.iter().enumerate() {
                match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                    Some("volume") => bound.set("volume", &segments[i..].join("/")),
                    Some(name) => bound.set(name, &segments[i]),
                    None if *part == segments[i] => literal += 1,
                    None => {
                        fits = false;
                        break;
                    }
                }
            }
            if fits && best.as_ref().is_none_or(|(l, ..)| literal > *l) {
                best = Some((literal, call, bound));
            }
        }
        best.map(|(_, call, bound)| (call, bound))
    }

    /// Everything after the path was found: token rule, permission, parameters, then the call itself.
    pub(crate) async fn run(&self, call: &Call, ctx: Ctx) -> ApiResult {
        if !call.token && ctx.caller.token.is_some() {
            let path = fill(call.path, &ctx.params);
            return Err(ApiError::Forbidden(Some(format!(
                "URI '{path}' not available with API token, need proper ticket.\n"
            ))));
        }
        ctx.cluster
            .judge(|_, access| match call.check {
                Check::World | Check::Everyone => Ok(()),
                Check::All(path, all) => {
                    let path = fill(path, &ctx.params);
                    all.iter().try_for_each(|p| access.check(&ctx.caller, &path, p))
                }
                Check::Any(path, any) => access.check_any(&ctx.caller, &fill(path, &ctx.params), any),
                Check::Own(rule) => rule(access, &ctx.caller, &ctx.params),
            })
            .await?;
        let errors = check_params(&call.spec, &ctx.params, self.major);
        if !errors.is_empty() {
            return Err(ApiError::Parameters(errors));
        }
        // A client that hangs up does not stop the daemon in the middle of its work.
        match tokio::spawn((call.handler)(ctx)).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a call failed");
                Err(ApiError::died("internal error"))
            }
        }
    }
}

/// Puts parameters into a path template.
pub(crate) fn fill(template: &str, params: &Params) -> String {
    template
        .split('/')
        .map(|part| match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            Some(name) => params.get(name).unwrap_or("").to_owned(),
            None => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/")
}
