//! Events: which object to read again.

use serde_json::Value;

/// The envelope of an event: enough to know which object to read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEnvelope {
    /// `evt_…`
    pub id: String,
    /// For example `checkout.session.completed`, without a `v1.` in front.
    pub kind: String,
    /// The object it is about.
    pub object_id: Option<String>,
    /// What sort of object, for example `checkout.session`.
    pub object_kind: Option<String>,
    /// Unix seconds.
    pub created: i64,
    /// Whether real money moves; absent in thin events.
    pub livemode: Option<bool>,
    /// Version it was rendered in.
    pub api_version: Option<String>,
    /// Set for events of connected accounts, which we have none of.
    pub account: Option<String>,
}

impl EventEnvelope {
    /// Reads a snapshot or a thin event; `None` when it has no id or no type.
    pub fn read(event: &Value) -> Option<Self> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let thin = event.get("object").and_then(Value::as_str) == Some("v2.core.event");
        let kind = text(event.get("type"))?;
        let (object_id, object_kind) = if thin {
            let object = event.get("related_object");
            (text(object.and_then(|o| o.get("id"))), text(object.and_then(|o| o.get("type"))))
        } else {
            let object = event.get("data").and_then(|data| data.get("object"));
            (text(object.and_then(|o| o.get("id"))), text(object.and_then(|o| o.get("object"))))
        };
        Some(Self {
            id: text(event.get("id")).filter(|id| !id.is_empty())?,
            kind: kind.strip_prefix("v1.").unwrap_or(&kind).to_owned(),
            object_id,
            object_kind,
            created: event.get("created").and_then(Value::as_i64).unwrap_or(0),
            livemode: event.get("livemode").and_then(Value::as_bool),
            api_version: text(event.get("api_version")),
            account: text(event.get("account")),
        })
    }
}

/// One page of events, newest first.
#[derive(Debug, Clone)]
pub(crate) struct EventList {
    pub(crate) events: Vec<(EventEnvelope, Value)>,
    pub(crate) has_more: bool,
    pub(crate) last_id: Option<String>,
}

impl EventList {
    pub(crate) fn read(list: &Value) -> Self {
        let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Self {
            events: rows
                .iter()
                .filter_map(|row| EventEnvelope::read(row).map(|envelope| (envelope, row.clone())))
                .collect(),
            has_more: list.get("has_more").and_then(Value::as_bool).unwrap_or(false),
            last_id: rows.last().and_then(|row| row.get("id")).and_then(Value::as_str).map(str::to_owned),
        }
    }
}
