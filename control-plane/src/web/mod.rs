//! The portal's frame: templates, texts, forms, and the defaults every page lives under.
//!
//! # How a slice adds a page
//!
//! 1. *Template* `templates/web/pages/<slice>/<page>.html`. It extends a layout and fills blocks:
//!
//!    ```jinja
//!    {% extends "layouts/customer.html" %}
//!    {% from "components/page.html" import heading %}
//!    {% block title %}{{ t("instances-list-title") }}{% endblock %}
//!    {% block main %}
//!    {{ heading(t("instances-list-title")) }}
//!    {% for server in servers %} … {% endfor %}
//!    {% endblock %}
//!    ```
//!
//!    Layouts: `public.html`, `customer.html`, `operator.html`. No literal text: everything people
//!    read is `t("key", name=value)`. No `style=`, no `on…=`; meters are `<meter>`. Components are
//!    listed in `templates/web/components/`.
//! 2. *Texts* in `locales/en/<slice>.ftl`; keys start with `<slice>-`. Keys put together at run time
//!    (`t("orders-step-" ~ step.code)`) count as used by their prefix.
//! 3. *View* in `web/views/<slice>.rs`: a `Serialize` struct with `impl Page` (template path and
//!    samples that cover every branch), and one line in `views::all()`. The markup test renders every
//!    sample and refuses duplicate ids, unlabelled inputs, `style=`, inline handlers and more.
//! 4. *Handler* in the slice's `pages.rs`: extract → one verb of the slice → render.
//!
//!    ```ignore
//!    pub fn router() -> Router<App> { Router::new().route("/servers", get(list)) }
//!
//!    async fn list(ctx: web::Ctx, web::Customer(me): web::Customer, State(app): State<App>) -> web::Result {
//!        let servers = instances::list(&app, me.account_id).await?;
//!        ctx.page(&views::instances::List { servers: … })
//!    }
//!    ```
//!
//! # What every page gets without asking
//!
//! [`protect`] stands in front of all pages: session required (reviewed opt-outs in `gate.rs`), staff
//! only below `/operator`, forms from our own pages only, rate limits, body limit, time-out, security
//! headers, `no-store`. A handler returns [`Result`]; any error becomes a page with the request's id
//! (`?` on an error of yours is a 500, `DbError::NotFound` a 404; say [`Error::NotFound`] for what
//! belongs to somebody else). A refused form goes back with `ctx.page_with(422, …)` and its
//! [`FormState`]; a form that worked ends in [`Ctx::redirect`] or [`Ctx::redirect_saying`]; the way to
//! Stripe is [`redirect`].
//!
//! A live page wraps what changes in `<live-region src="…/changes" fragment="live">{% block live %}` and
//! gives a route that ends in [`live`]:
//!
//! ```ignore
//! async fn changes(Customer(me): Customer, State(app): State<App>, Path(id): Path<OrderId>) -> web::Result {
//!     web::live(me.account_id, move || { let app = app.clone(); async move { orders::version(&app, me.account_id, id).await } })
//! }
//! ```
//!
//! `EZ_GALLERY_DIR=target/gallery` makes the markup test write every sample there as a page to look at.

mod assets;
mod context;
mod cookies;
mod csrf;
mod embedded;
mod error;
mod filters;
pub mod forms;
mod gate;
mod headers;
mod limit;
mod listen;
mod live;
mod pages;
mod shell;
mod templates;
mod text;
pub mod views;

#[cfg(test)]
mod markup;
#[cfg(test)]
mod tests;

pub use assets::Assets;
pub use context::{Ctx, Customer, Staff, Visitor, redirect, safe_path};
pub use cookies::{Cookies, SESSION};
pub use error::{Error, Result};
#[allow(unused_imports, reason = "mails of slices write amounts")]
pub(crate) use filters::{written_bytes, written_date, written_money, written_month};
pub use forms::{FieldError, FormState, Submission};
pub(crate) use gate::protect;
pub(crate) use limit::{Ask, Attempts, Limits, caller_of};
pub(crate) use listen::serve;
pub(crate) use live::{close_streams, closing};
pub use live::{ended, live};
pub(crate) use pages::routes;
pub use shell::{Flash, Shell, Theme, Tone, Viewer};
pub use templates::{Letter, Page, TemplateError, Templates};
pub use text::{DEFAULT_LANGUAGE, TextError, Texts};
