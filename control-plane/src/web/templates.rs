//! The template engine: minijinja with typed contexts, strict about everything undefined.
//!
//! One environment per language, because `t()` is bound to its catalogue. A debug build run from the
//! checkout builds the environment again when a file changed (see [`super::embedded`]).

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use minijinja::{
    AutoEscape, Environment, UndefinedBehavior, Value, context, syntax::SyntaxConfig, value::Serde,
};
use serde::Serialize;

use crate::web::{
    assets::Assets,
    embedded::{self, Tree},
    filters,
    shell::Shell,
    text::{DEFAULT_LANGUAGE, TextError, Texts},
};

/// A page: the typed context of one template.
///
/// The fields stand at the root of the template (`{{ hostname }}`), beside `shell`, which carries what
/// every page knows ([`Shell`]).
pub trait Page: Serialize {
    /// Path below `templates/web/`, for instance `pages/orders/show.html`.
    const TEMPLATE: &'static str;

    /// At least one filled context, each with a short name (`"unpaid"`, `"failed"`); a test renders
    /// all of them and looks at the markup. Cover each branch of the template.
    fn samples() -> Vec<(&'static str, Self)>
    where
        Self: Sized;
}

/// Why a page could not be rendered. Always a mistake of ours, never the visitor's.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The texts could not be loaded.
    #[error("loading texts")]
    Texts(#[from] TextError),
    /// A template does not parse.
    #[error("loading template {name}")]
    Load {
        /// Path below `templates/`.
        name: String,
        /// What the engine said.
        #[source]
        source: minijinja::Error,
    },
    /// A template could not be rendered with the context it got.
    #[error("rendering {name}: {reason}")]
    Render {
        /// Path below `templates/`.
        name: String,
        /// The chain of causes, with line numbers.
        reason: String,
    },
}

/// A letter, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// One line.
    pub subject: String,
    /// Plain text body.
    pub text: String,
    /// HTML body.
    pub html: String,
}

/// All templates, texts and assets of one revision.
struct Loaded {
    revision: u128,
    environment: Environment<'static>,
    texts: Texts,
    assets: Assets,
}

/// Renders pages and letters; cheap to clone.
#[derive(Clone)]
pub struct Templates {
    loaded: Arc<RwLock<Arc<Loaded>>>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Templates({:?})", self.loaded().texts)
    }
}

impl Templates {
    /// Loads and compiles everything; a template that does not parse is refused here, at start-up.
    pub fn load() -> Result<Self, TemplateError> {
        Ok(Self { loaded: Arc::new(RwLock::new(Arc::new(Loaded::new()?))) })
    }

    /// Renders a whole page.
    pub fn page<P: Page>(&self, shell: &Shell, page: &P) -> Result<String, TemplateError> {
        self.value(P::TEMPLATE, shell, Value::from(Serde(page)), None)
    }

    /// Renders one block of a page, for a live region that replaces it.
    pub fn fragment<P: Page>(&self, shell: &Shell, page: &P, block: &str) -> Result<String, TemplateError> {
        self.value(P::TEMPLATE, shell, Value::from(Serde(page)), Some(block))
    }

    /// Renders the letter in `templates/email/<name>/` (`subject.txt`, `body.txt`, `body.html`).
    pub fn letter(&self, name: &str, context: &impl Serialize) -> Result<Letter, TemplateError> {
        let loaded = self.loaded();
        let value = Value::from(Serde(context));
        let part = |file: &str| {
            let path = format!("email/{name}/{file}");
            loaded
                .environment
                .get_template(&path)
                .and_then(|template| template.render(value.clone()))
                .map_err(|error| refused(&path, &error))
        };
        Ok(Letter {
            subject: part("subject.txt")?.split_whitespace().collect::<Vec<_>>().join(" "),
            text: part("body.txt")?,
            html: part("body.html")?,
        })
    }

    /// The message catalogue, for text that does not come from a template.
    pub fn texts(&self) -> Texts {
        self.loaded().texts.clone()
    }

    /// Style sheets and scripts.
    pub fn assets(&self) -> Assets {
        self.loaded().assets.clone()
    }

    /// Renders `template` (or one block of it) with an untyped context; the typed faces call this.
    pub(super) fn value(
        &self,
        template: &str,
        shell: &Shell,
        page: Value,
        block: Option<&str>,
    ) -> Result<String, TemplateError> {
        let loaded = self.loaded();
        let shell = Value::from(Serde(shell));
        let root = context! { shell => shell, ..page };
        let render = || -> Result<String, minijinja::Error> {
            let template = loaded.environment.get_template(template)?;
            match block {
                None => template.render(root),
                Some(block) => {
                    template.render_captured(root)?.with_state_mut(|state| state.render_block(block))
                }
            }
        };
        render().map_err(|error| refused(template, &error))
    }

    /// The current revision; in a debug build loaded again after an edit. A version that does not
    /// load keeps the old one in use and says so in the log.
    fn loaded(&self) -> Arc<Loaded> {
        let current = Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner));
        if embedded::revision() == current.revision {
            return current;
        }
        match Loaded::new() {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
                fresh
            }
            Err(error) => {
                tracing::warn!(web.error = %error, web.cause = ?error, "the edited templates do not load");
                current
            }
        }
    }
}

impl Loaded {
    fn new() -> Result<Self, TemplateError> {
        let revision = embedded::revision();
        let texts = Texts::load(DEFAULT_LANGUAGE)?;
        let assets = Assets::load();
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refused("syntax", &error))?);
        environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        filters::register(&mut environment, &texts, &assets);
        for (tree, prefix) in [(Tree::Templates, ""), (Tree::Mails, "email/")] {
            for (file, source) in tree.files() {
                let name = format!("{prefix}{file}");
                environment
                    .add_template_owned(name.clone(), source.into_owned())
                    .map_err(|source| TemplateError::Load { name, source })?;
            }
        }
        Ok(Self { revision, environment, texts, assets })
    }
}

/// Turns the engine's error into ours, keeping template name, line and cause of each level.
fn refused(name: &str, error: &minijinja::Error) -> TemplateError {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    TemplateError::Render { name: name.to_owned(), reason }
}
