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
//! `EZ_GALLERY_DIR=target/gallery` makes the markup test write every sample there as a page to look at.

mod assets;
mod embedded;
mod filters;
pub mod forms;
mod pages;
mod shell;
mod templates;
mod text;
pub mod views;

#[cfg(test)]
mod markup;

pub use assets::Assets;
#[allow(unused_imports, reason = "mails of slices write amounts")]
pub(crate) use filters::written_money;
pub use forms::{FieldError, FormState, Submission};
pub use shell::{Flash, Shell, Theme, Tone, Viewer};
pub use templates::{Letter, Page, TemplateError, Templates};
pub use text::{DEFAULT_LANGUAGE, TextError, Texts};

pub(crate) use pages::{protect, routes};
