//! The pages for looking after a server, and the one form behind all their buttons.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use ez_protocol::input::Hostname;
use http::StatusCode;

use super::{actor, mine};
use crate::{
    app::App,
    dispatch::{IssueError, Pace},
    instances::{
        ActError, AskError, Asked, Instance, Verb, Wanted, act, care,
        firewall::{self, Written, WrittenRule},
        reset_password, show,
    },
    web::{self, Ctx, Customer, Error, FormState, Submission, Tone, forms::hostname_code},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/actions", post(begin))
        .route("/servers/{id}/name", post(rename))
        .route("/servers/{id}/firewall", get(rules).post(change_rules))
        .route("/servers/{id}/{tab}", get(tab))
        .route("/servers/{id}/{tab}/changes", get(changes))
}

/// The pages of a server beside its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tab {
    Overview,
    Snapshots,
    Backups,
    Rescue,
    Rebuild,
    Password,
}

impl Tab {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "snapshots" => Self::Snapshots,
            "backups" => Self::Backups,
            "rescue" => Self::Rescue,
            "rebuild" => Self::Rebuild,
            "password" => Self::Password,
            _ => return None,
        })
    }

    /// Where the button of an action stands.
    fn of_action(action: &str) -> Self {
        match action.split('_').next() {
            Some("snapshot") => Self::Snapshots,
            Some("backup") => Self::Backups,
            Some("rescue" | "iso") => Self::Rescue,
            Some("rebuild") => Self::Rebuild,
            Some("set") => Self::Password,
            _ => Self::Overview,
        }
    }

    fn path(self, instance: &Instance) -> String {
        let tab = match self {
            Self::Overview => "",
            Self::Snapshots => "/snapshots",
            Self::Backups => "/backups",
            Self::Rescue => "/rescue",
            Self::Rebuild => "/rebuild",
            Self::Password => "/password",
        };
        format!("/servers/{}{tab}", instance.id)
    }

    async fn page(
        self,
        ctx: &Ctx,
        app: &App,
        instance: &Instance,
        status: StatusCode,
        form: FormState,
    ) -> web::Result {
        let mut connection = app.db.read().await?;
        let (connection, now) = (&mut *connection, ctx.now());
        match self {
            Self::Overview => ctx.page_with(status, &show::page(connection, instance, now, form).await?),
            Self::Snapshots => {
                ctx.page_with(status, &care::of_snapshots(connection, instance, now, form).await?)
            }
            Self::Backups => ctx.page_with(status, &care::of_backups(connection, instance, now).await?),
            Self::Rescue => ctx.page_with(status, &care::of_rescue(connection, instance, now, form).await?),
            Self::Rebuild => ctx.page_with(status, &care::of_rebuild(connection, instance, now, form).await?),
            Self::Password => {
                ctx.page_with(status, &care::of_password(connection, instance, now, None).await?)
            }
        }
    }
}

async fn tab(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
) -> web::Result {
    let tab = Tab::named(&name).ok_or(Error::NotFound)?;
    let instance = mine(&app, &me, &id).await?;
    if !instance.state.is_live() {
        return ctx.redirect(&Tab::Overview.path(&instance));
    }
    tab.page(&ctx, &app, &instance, StatusCode::OK, FormState::default()).await
}

/// Every page of a server changes with the server; a live region fetches the page that its stream's address begins with.
async fn changes(
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, name)): Path<(String, String)>,
) -> web::Result {
    if name != "firewall" && Tab::named(&name).is_none() {
        return Err(Error::NotFound);
    }
    super::live(&app, &me, &id).await
}

/// Any button.
async fn begin(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let given = |name: &str| Some(sent.text(name).to_owned()).filter(|text| !text.is_empty());
    let wanted = Wanted {
        action: sent.text("action").to_owned(),
        name: given("name"),
        backup: given("backup"),
        image: given("image"),
        iso: given("iso"),
    };
    let tab = Tab::of_action(&wanted.action);
    let mut form = sent.state();
    if wanted.action == "rebuild" && sent.text("confirm") != instance.hostname {
        form.refuse("confirm", "confirm-name");
        return tab.page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await;
    }
    let asked = {
        let mut connection = app.db.read().await?;
        wanted.read(&mut connection, &instance).await
    };
    let done = match asked {
        Ok(Asked::Verb(verb)) => act(&app, instance.id, verb, &actor(&me), None).await.map(|_| None),
        Ok(Asked::Password) => {
            reset_password(&app, instance.id, &actor(&me), None).await.map(|(_, password)| Some(password))
        }
        Err(AskError::Field { field: "action", .. }) => return Err(Error::NotFound),
        Err(AskError::Field { field, code, .. }) => {
            form.refuse(field, field_code(code));
            return tab.page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await;
        }
        Err(AskError::Db(error)) => return Err(error.into()),
    };
    match done {
        Ok(None) => ctx.redirect(&tab.path(&instance)),
        // Shown by this one answer: no redirect carries it.
        Ok(Some(password)) => {
            let mut connection = app.db.read().await?;
            let password = Some(password.expose().to_owned());
            ctx.page(&care::of_password(&mut connection, &instance, ctx.now(), password).await?)
        }
        Err(ActError::Taken) => {
            form.refuse("name", "snapshot-name-taken");
            tab.page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await
        }
        Err(error) => refused(&ctx, &tab.path(&instance), &instance, error),
    }
}

/// Another name.
async fn rename(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let name = match Hostname::parse(sent.text("hostname")) {
        Ok(name) => name,
        Err(error) => {
            let mut form = sent.state();
            form.refuse("hostname", hostname_code(error));
            return Tab::Overview.page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await;
        }
    };
    let page = Tab::Overview.path(&instance);
    match act(&app, instance.id, Verb::Rename(name), &actor(&me), None).await {
        Ok(_) => ctx.redirect(&page),
        Err(error) => refused(&ctx, &page, &instance, error),
    }
}

/// The text of a field that was not understood: `field-error-<code>`.
fn field_code(code: &'static str) -> &'static str {
    match code {
        "missing" => "required",
        "snapshot_name_invalid" => "snapshot-name-invalid",
        "image_unknown" => "image-unknown",
        "iso_unknown" => "iso-unknown",
        _ => "required",
    }
}

/// Back to the page with a sentence about why nothing was begun.
fn refused(ctx: &Ctx, page: &str, instance: &Instance, error: ActError) -> web::Result {
    let (tone, code) = match &error {
        ActError::Unknown => return Err(Error::NotFound),
        ActError::Db(_) | ActError::Issue(IssueError::Db(_)) => {
            return Err(match error {
                ActError::Db(error) | ActError::Issue(IssueError::Db(error)) => error.into(),
                _ => Error::NotFound,
            });
        }
        ActError::Busy(_) | ActError::DoesNotFit { .. } | ActError::SoAlready | ActError::Taken => {
            (Tone::Info, "server-busy")
        }
        ActError::Suspended => (Tone::Bad, "server-suspended"),
        ActError::NeedsRebuild => (Tone::Bad, "server-needs-rebuild"),
        ActError::InRescue => (Tone::Info, "server-in-rescue"),
        ActError::NoSuch(_) => (Tone::Info, "server-no-such"),
        ActError::TooManySnapshots(_) => (Tone::Info, "server-snapshots-full"),
        ActError::NotSold => (Tone::Info, "server-no-backups"),
        ActError::ImageNotReady => (Tone::Bad, "server-image-not-ready"),
        ActError::Issue(IssueError::Paced { pace, .. }) => (
            Tone::Info,
            match pace {
                Pace::ServerHour => "server-replaced-often",
                Pace::NodeHour => "server-host-replaced-much",
                Pace::NodeDay => "server-host-replaced-all",
            },
        ),
        ActError::Issue(IssueError::TooMany { .. }) => (Tone::Info, "server-told-much"),
        ActError::Issue(_) | ActError::Spec(_) => {
            tracing::warn!(instance.id = %instance.id, error = %error, "an action could not be ordered");
            (Tone::Bad, "server-node-away")
        }
    };
    ctx.redirect_saying(page, tone, code)
}

async fn rules(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    if !instance.state.is_live() {
        return ctx.redirect(&Tab::Overview.path(&instance));
    }
    let mut connection = app.db.read().await?;
    ctx.page(&care::of_firewall(&mut connection, &instance, ctx.now(), None, FormState::default()).await?)
}

/// The rows as they were sent: every row sends all its fields.
fn typed(sent: &Submission) -> Written {
    let columns = ["direction", "verdict", "protocol", "ports", "peers"]
        .map(|name| sent.all(name).map(|text| text.trim().to_owned()).collect::<Vec<String>>());
    let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
    let cell = |column: usize, row: usize| columns[column].get(row).cloned().unwrap_or_default();
    let rules = (0..rows).map(|row| WrittenRule {
        direction: cell(0, row),
        verdict: cell(1, row),
        protocol: cell(2, row),
        ports: cell(3, row),
        peers: cell(4, row)
            .split([',', ' ', ';'])
            .filter(|peer| !peer.is_empty())
            .map(str::to_owned)
            .collect(),
    });
    Written { inbound: sent.text("inbound").to_owned(), rules: rules.collect() }
}

/// A row that lets something in.
fn row(protocol: &str, ports: &str) -> WrittenRule {
    WrittenRule {
        direction: "in".to_owned(),
        verdict: "accept".to_owned(),
        protocol: protocol.to_owned(),
        ports: ports.to_owned(),
        peers: Vec::new(),
    }
}

/// Saves the rules, or changes what is typed and shows it again.
async fn change_rules(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let mut written = typed(&sent);
    let mut form = FormState::default();
    let mut status = StatusCode::OK;
    let pressed = sent.text("do");
    if pressed == "add" {
        written.rules.push(row("tcp", ""));
    } else if let Some(gone) = pressed.strip_prefix("remove-").and_then(|row| row.parse::<usize>().ok()) {
        if gone < written.rules.len() {
            written.rules.remove(gone);
        }
    } else if let Some(code) = pressed.strip_prefix("preset-") {
        let preset = care::PRESETS.iter().find(|(known, ..)| *known == code);
        let (_, protocol, ports) = preset.ok_or(Error::NotFound)?;
        written.rules.push(row(protocol, ports));
    } else {
        match firewall::read(&written) {
            Ok(rules) => {
                let page = format!("/servers/{}/firewall", instance.id);
                return match act(&app, instance.id, Verb::Firewall(rules), &actor(&me), None).await {
                    Ok(_) => ctx.redirect(&page),
                    Err(ActError::SoAlready) => {
                        ctx.redirect_saying(&page, Tone::Info, "server-firewall-same")
                    }
                    Err(error) => refused(&ctx, &page, &instance, error),
                };
            }
            Err(wrong) => {
                status = StatusCode::UNPROCESSABLE_ENTITY;
                for wrong in wrong {
                    let field = match wrong.rule {
                        Some(rule) => format!("{}-{rule}", wrong.field),
                        None => wrong.field.to_owned(),
                    };
                    form.refuse(field, format!("firewall-{}", wrong.code.replace('_', "-")));
                }
            }
        }
    }
    let mut connection = app.db.read().await?;
    let page = care::of_firewall(&mut connection, &instance, ctx.now(), Some(written), form).await?;
    ctx.page_with(status, &page)
}
