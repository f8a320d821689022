//! Faults of the mail server: letters that are refused, a server that is away, and letters that are taken
//! without a word, so that their sender sends them again.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::inject::{Away, Rules, is_zero, once};

/// Body of `POST /faults`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailFaults {
    /// How the next `times` are refused: `421` closes connections at their greeting, `451` refuses letters
    /// for now, `554` for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refuse: Option<String>,
    /// Whether connections are reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) down: Option<bool>,
    /// With `down`: for how long; until it is taken back if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) for_ms: Option<u64>,
    /// So many letters are stored and the connection closed instead of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drop_after_data: Option<u32>,
    /// How often a refusal happens.
    #[serde(default = "once")]
    pub(crate) times: u32,
    /// How many occasions pass before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skip: u32,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A rule and how often it strikes.
    Arm(Rule, u32),
    /// The server goes away, for so long or until it is called back.
    Leave(Option<Duration>),
    /// The server is there again.
    ComeBack,
}

impl MailFaults {
    /// Reads the request.
    ///
    /// # Errors
    /// It makes no sense.
    pub(crate) fn wish(&self) -> Result<Wish, String> {
        if self.times == 0 || self.drop_after_data == Some(0) {
            return Err("a count must be at least 1; DELETE /faults takes rules back".into());
        }
        if self.for_ms.is_some() && self.down != Some(true) {
            return Err("`for_ms` goes with `down = true`".into());
        }
        match (self.refuse.as_deref(), self.down, self.drop_after_data) {
            (Some("421"), None, None) => Ok(Wish::Arm(Rule::Close, self.times)),
            (Some("451"), None, None) => Ok(Wish::Arm(Rule::Defer, self.times)),
            (Some("554"), None, None) => Ok(Wish::Arm(Rule::Reject, self.times)),
            (Some(_), None, None) => Err("`refuse` must be 421, 451 or 554".into()),
            (None, Some(true), None) => Ok(Wish::Leave(self.for_ms.map(Duration::from_millis))),
            (None, Some(false), None) => Ok(Wish::ComeBack),
            (None, None, Some(letters)) => Ok(Wish::Arm(Rule::DropAfterData, letters)),
            _ => Err("name one of refuse, down, drop_after_data".into()),
        }
    }
}

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub(crate) enum Rule {
    /// 421 instead of a greeting.
    Close,
    /// 451 instead of taking a letter.
    Defer,
    /// 554 instead of taking a letter.
    Reject,
    /// The letter is stored; there is no answer.
    DropAfterData,
}

impl Rule {
    /// What the server says, if anything.
    pub(crate) fn says(self) -> Option<&'static str> {
        match self {
            Rule::Close => Some("421 4.3.2 Not in service now"),
            Rule::Defer => Some("451 4.3.0 Not now, try again"),
            Rule::Reject => Some("554 5.0.0 Refused"),
            Rule::DropAfterData => None,
        }
    }
}

/// Everything that is armed; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Injector {
    rules: Arc<Rules<Rule>>,
    pub(crate) away: Arc<Away>,
}

impl Injector {
    /// Does what a request asks for.
    ///
    /// # Errors
    /// The request makes no sense.
    pub(crate) fn arm(&self, wanted: &MailFaults) -> Result<(), String> {
        match wanted.wish()? {
            Wish::Arm(rule, times) => {
                self.rules.arm(rule, times, wanted.skip);
            }
            Wish::Leave(Some(time)) => self.away.leave_for(time),
            Wish::Leave(None) => {
                self.away.leave();
            }
            Wish::ComeBack => self.away.come_back(),
        }
        Ok(())
    }

    /// A client connects.
    pub(crate) fn greeting(&self) -> Option<Rule> {
        self.rules.meet(|rule| *rule == Rule::Close).map(|strike| strike.rule)
    }

    /// A letter has come.
    pub(crate) fn letter(&self) -> Option<Rule> {
        self.rules.meet(|rule| *rule != Rule::Close).map(|strike| strike.rule)
    }

    /// All rules.
    pub(crate) fn list(&self) -> Value {
        json!({ "rules": self.rules.list(), "down": self.away.is_away(), "resets": self.away.resets() })
    }

    /// Everything is well again.
    pub(crate) fn clear(&self) {
        self.rules.clear();
        self.away.clear();
    }
}
