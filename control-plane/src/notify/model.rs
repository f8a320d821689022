//! What a letter is.

use serde::Serialize;

/// The typed context of `templates/email/<TEMPLATE>/{subject.txt,body.txt,body.html}`.
///
/// ```
/// # use ez_control_plane::notify::Letter;
/// #[derive(serde::Serialize)]
/// struct ServerReady { hostname: String }
///
/// impl Letter for ServerReady {
///     const TEMPLATE: &'static str = "server-ready";
///     fn sample() -> Self {
///         Self { hostname: "web-1".into() }
///     }
/// }
/// ```
pub trait Letter: Serialize + Sized {
    /// The folder's name.
    const TEMPLATE: &'static str;

    /// A filled context; a test renders it.
    fn sample() -> Self;
}
