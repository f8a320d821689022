//! A server's screen and serial line.

use serde::Serialize;

use crate::web::{
    templates::Page,
    views::instances::{Head, sample_head},
};

/// `GET /servers/{id}/console`. The script asks for a ticket by `POST` to the same address.
#[derive(Debug, Clone, Serialize)]
pub struct Show {
    /// What all pages of the server begin with.
    pub server: Head,
    /// Why there is no console now: text `console-end-<word>`.
    pub refused: Option<&'static str>,
}

impl Page for Show {
    const TEMPLATE: &'static str = "pages/console/show.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let running = Self { server: sample_head("running", "good"), refused: None };
        let off = Self { server: sample_head("stopped", "idle"), refused: Some("not_running") };
        let suspended = Self {
            server: Head { locked: Some("suspended"), ..sample_head("suspended", "idle") },
            refused: Some("suspended"),
        };
        vec![("running", running), ("off", off), ("suspended", suspended)]
    }
}
