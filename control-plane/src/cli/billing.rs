//! `billing reconcile|sync|revenue|inbox|replay|exempt|unexempt|queue`.

use std::process::ExitCode;

use clap::Subcommand;
use ez_protocol::InstanceId;
use serde_json::json;

use super::{ACTOR, say};
use crate::{
    app::App,
    billing::{self, Verb},
    catalog,
};

#[derive(Debug, Subcommand)]
pub(super) enum BillingCommand {
    /// Looks for missed events, compares every subscription and the invoices and disputes of five weeks with
    /// Stripe, and mends what differs. Fails if something is left.
    Reconcile {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes Stripe's products, prices, coupons and promotion codes what the applied catalogue says, and shows what
    /// differed. Fails where a person has to decide.
    Sync {
        /// Only show what would be done; nothing is written, here or at Stripe.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists Stripe's events: what failed first, then the newest.
    Inbox {
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: i64,
        /// Only how many there are in each state.
        #[arg(long)]
        counts: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Has the object of an event read again from Stripe.
    Replay {
        /// Id of the event, evt_…
        event: String,
    },
    /// Lists the servers that are not simply paid, the next step first.
    Queue {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What comes in: the last twelve months, by currency.
    Revenue {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Gives a part of the latest payment for a server back. The same reference again gives nothing more.
    Refund(GiftArgs),
    /// Gives the owner of a server credit for the next invoices. The same reference again gives nothing more.
    Credit(GiftArgs),
    /// Never suspends a server, whatever its invoices say.
    Exempt {
        /// Id of the server.
        server: InstanceId,
        /// One sentence for the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Lets a server's invoices count again.
    Unexempt {
        /// Id of the server.
        server: InstanceId,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct GiftArgs {
    /// Id of the server.
    server: InstanceId,
    /// How much, in minor units as Stripe counts them: 450 is 4.50 €, or 450 JPY.
    #[arg(long)]
    amount: i64,
    /// What it is for: a ticket's number, for example.
    #[arg(long)]
    reference: String,
    /// Why, for the audit log; the reference if not given.
    #[arg(long)]
    reason: Option<String>,
    /// Of a refund: the invoice whose payment goes back in part, in_…; the latest if not given.
    #[arg(long)]
    invoice: Option<String>,
}

impl GiftArgs {
    fn gift(self) -> billing::Gift {
        billing::Gift {
            instance: self.server,
            invoice: self.invoice,
            amount_minor: self.amount,
            reason: self.reason.unwrap_or_else(|| self.reference.clone()),
            reference: self.reference,
        }
    }
}

pub(super) async fn billing(app: App, command: BillingCommand) -> anyhow::Result<ExitCode> {
    match command {
        BillingCommand::Reconcile { json } => reconcile(&app, json).await,
        BillingCommand::Sync { dry_run, json } => sync(&app, dry_run, json).await,
        BillingCommand::Inbox { counts: true, json, .. } => counts(&app, json).await,
        BillingCommand::Inbox { limit, json, .. } => inbox(&app, limit, json).await,
        BillingCommand::Queue { json } => queue(&app, json).await,
        BillingCommand::Replay { event } => {
            billing::replay(&app, &event, ACTOR).await?;
            say(format_args!("the object of {event} is being read again"))?;
            Ok(ExitCode::SUCCESS)
        }
        BillingCommand::Revenue { json } => revenue(&app, json).await,
        BillingCommand::Refund(args) => {
            let gift = args.gift();
            billing::refund_part(&app, &gift, ACTOR).await?;
            say(format_args!("{} minor units are on their way back", gift.amount_minor))?;
            Ok(ExitCode::SUCCESS)
        }
        BillingCommand::Credit(args) => {
            let gift = args.gift();
            billing::credit(&app, &gift, ACTOR).await?;
            say(format_args!("{} minor units of credit were given", gift.amount_minor))?;
            Ok(ExitCode::SUCCESS)
        }
        BillingCommand::Exempt { server, reason } => {
            billing::exempt(&app, server, &reason, ACTOR).await?;
            say(format_args!("server {server} is never suspended"))?;
            Ok(ExitCode::SUCCESS)
        }
        BillingCommand::Unexempt { server } => {
            billing::unexempt(&app, server, ACTOR).await?;
            say(format_args!("the invoices of server {server} count again"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn reconcile(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let report = billing::reconcile(app).await?;
    if json {
        say(format_args!("{}", serde_json::to_string_pretty(&report)?))?;
    } else {
        for one in &report.differences {
            say(format_args!("{} {}: {}", one.kind, one.object, one.what))?;
        }
        say(format_args!(
            "{} objects compared, {} missed events, {} differences, {} left",
            report.compared,
            report.events_found,
            report.differences.len(),
            report.left
        ))?;
    }
    Ok(if report.left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn sync(app: &App, dry_run: bool, json: bool) -> anyhow::Result<ExitCode> {
    let report = catalog::sync(app, dry_run).await?;
    if json {
        let told = json!({ "dry_run": dry_run, "steps": report.steps, "conflicts": report.conflicts() });
        say(format_args!("{}", serde_json::to_string_pretty(&told)?))?;
    } else {
        for step in &report.steps {
            say(format_args!(
                "{} {:<8} {:<14} {}  {}",
                sign(step.verb),
                step.verb,
                step.kind,
                step.key,
                step.detail
            ))?;
        }
        let (done, left) = (report.steps.len() - report.conflicts(), report.conflicts());
        let what = if dry_run { "to do; nothing was written" } else { "done" };
        say(format_args!("{done} {what}, {left} for you to decide"))?;
    }
    Ok(if report.conflicts() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As in a diff.
const fn sign(verb: Verb) -> char {
    match verb {
        Verb::Make | Verb::Restore => '+',
        Verb::Change => '~',
        Verb::Archive => '-',
        Verb::Adopt => '=',
        Verb::Conflict => '!',
    }
}

async fn inbox(app: &App, limit: i64, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = app.db.read().await?;
    let events = billing::inbox(&mut connection, limit).await?;
    if json {
        let rows: Vec<_> = events
            .iter()
            .map(|event| {
                json!({
                    "id": event.id, "type": event.kind, "object": event.object, "state": event.state,
                    "source": event.source, "error": event.error, "attempts": event.attempts,
                    "received_at": event.received_at,
                })
            })
            .collect();
        say(format_args!("{}", serde_json::to_string_pretty(&rows)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for event in events {
        let error = event.error.map(|error| format!(": {error}")).unwrap_or_default();
        say(format_args!("{:<9} {} {}{error}", event.state, event.id, event.kind))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn queue(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = app.db.read().await?;
    let queue = billing::queue(&mut connection).await?;
    if json {
        let rows: Vec<_> = queue
            .iter()
            .map(|one| {
                json!({
                    "server": one.standing.instance, "order": one.standing.order, "stand": one.standing.stand,
                    "why": one.standing.why, "since": one.standing.since, "exempt": one.exempt,
                    "next": one.standing.next.map(|(step, _)| step), "next_at": one.standing.next.map(|(_, at)| at),
                })
            })
            .collect();
        say(format_args!("{}", serde_json::to_string_pretty(&rows)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for one in queue {
        let next = match one.standing.next {
            Some((step, at)) => format!(", {step} at {}", at.0),
            None => String::new(),
        };
        say(format_args!("{} {} ({}){next}", one.standing.instance, one.standing.stand, one.standing.why))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn revenue(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = app.db.read().await?;
    let all = billing::revenue_history(&mut connection, app.clock.now()).await?;
    if json {
        say(format_args!("{}", serde_json::to_string_pretty(&all)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for one in all {
        for month in one.months {
            say(format_args!(
                "{} {} {} minor units a month from {} subscriptions, {} paused; {} begun, {} ended; {} charges failed, {} paid later",
                one.currency,
                month.month,
                month.monthly_minor,
                month.live,
                month.paused,
                month.begun,
                month.ended,
                month.failed,
                month.recovered
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn counts(app: &App, json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = app.db.read().await?;
    let all: std::collections::BTreeMap<&str, i64> = billing::inbox_counts(&mut connection)
        .await?
        .into_iter()
        .map(|(state, n)| (state.as_str(), n))
        .collect();
    if json {
        say(format_args!("{}", serde_json::to_string(&all)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (state, many) in all {
        say(format_args!("{state:<9} {many}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
