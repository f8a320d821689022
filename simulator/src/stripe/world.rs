//! Everything the stand-in knows, as JSON objects by id, and the transaction over it.
//!
//! A call or a timer works on an overlay: what it changes is invisible to others until the engine has
//! written the whole overlay to SQLite in one transaction. An event is such an object too, and so is
//! its delivery: a change and what tells of it are durable together or not at all.
//!
//! Objects may carry a member `_sim` that the API never shows (a card's behaviour, an endpoint's secret).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::{fault::Fault, ids};

/// The API version this stand-in speaks.
pub const API_VERSION: &str = "2026-09-30.endive";

/// One stored object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) kind: String,
    pub(crate) seq: u64,
    pub(crate) value: Value,
}

/// Who asked, for the events' `request` member.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    pub(crate) request_id: Option<String>,
    pub(crate) idempotency_key: Option<String>,
}

/// All objects, and the changes of the running transaction.
#[derive(Debug, Default)]
pub(crate) struct World {
    base: HashMap<String, Record>,
    order: BTreeMap<String, BTreeSet<(u64, String)>>,
    due: BTreeSet<(i64, String)>,
    overlay: BTreeMap<String, Option<Record>>,
    next_seq: u64,
    drawn: u64,
    seed: String,
    /// Simulated time of the running transaction, in seconds since 1970.
    pub(crate) now: i64,
    /// Who started the running transaction.
    pub(crate) asker: Asker,
    /// How many seconds this clock runs ahead of the computer's.
    pub(crate) ahead: i64,
    /// How many links to invoices were given; no part of what is stored.
    pub(crate) links: u64,
    /// Public address of the hosted pages, without a slash at the end.
    pub(crate) base_url: String,
}

/// The text member `key`, or nothing.
pub(crate) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The integer member `key`, or zero.
pub(crate) fn int(value: &Value, key: &str) -> i64 {
    value.get(key).and_then(Value::as_i64).unwrap_or_default()
}

/// The boolean member `key`, or false.
pub(crate) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The object without what the API never shows.
pub(crate) fn public(value: &Value) -> Value {
    let mut shown = value.clone();
    if let Value::Object(map) = &mut shown {
        map.remove("_sim");
    }
    shown
}

impl World {
    /// A world from what was stored, in any order.
    pub(crate) fn load(records: Vec<Record>, base_url: String) -> Self {
        let mut world = Self { base_url, ..Self::default() };
        for record in records {
            world.next_seq = world.next_seq.max(record.seq + 1);
            let id = text(&record.value, "id").to_owned();
            world.index(&id, record);
        }
        world.recall();
        world
    }

    /// Reads the seed and the counter of identifiers back from the objects.
    fn recall(&mut self) {
        let ids = self.get("_meta", "meta_ids").cloned().unwrap_or_default();
        self.seed = text(&ids, "seed").to_owned();
        self.drawn = ids.get("drawn").and_then(Value::as_u64).unwrap_or_default();
    }

    /// Gives the world its seed if it has none yet.
    pub(crate) fn seed(&mut self, seed: &str) {
        if self.seed.is_empty() {
            self.seed = seed.to_owned();
            self.put("_meta", json!({ "id": "meta_ids", "seed": seed, "drawn": self.drawn }));
        }
    }

    fn index(&mut self, id: &str, record: Record) {
        self.unindex(id);
        self.order.entry(record.kind.clone()).or_default().insert((record.seq, id.to_owned()));
        if let Some(due) = super::timers::due_at(&record.kind, &record.value) {
            self.due.insert((due, id.to_owned()));
        }
        self.base.insert(id.to_owned(), record);
    }

    fn unindex(&mut self, id: &str) {
        let Some(old) = self.base.remove(id) else { return };
        if let Some(set) = self.order.get_mut(&old.kind) {
            set.remove(&(old.seq, id.to_owned()));
        }
        if let Some(due) = super::timers::due_at(&old.kind, &old.value) {
            self.due.remove(&(due, id.to_owned()));
        }
    }

    fn record(&self, id: &str) -> Option<&Record> {
        match self.overlay.get(id) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(id),
        }
    }

    /// The object of this kind and id.
    pub(crate) fn get(&self, kind: &str, id: &str) -> Option<&Value> {
        self.record(id).filter(|record| record.kind == kind).map(|record| &record.value)
    }

    /// The object of this id, whatever it is.
    pub(crate) fn any(&self, id: &str) -> Option<&Value> {
        self.record(id).filter(|record| !record.kind.starts_with('_')).map(|record| &record.value)
    }

    /// A copy of the object, or Stripe's refusal naming the parameter.
    ///
    /// # Errors
    /// `resource_missing`: 404 if `param` is `id`, else 400.
    pub(crate) fn need(&self, kind: &str, id: &str, param: &str) -> Result<Value, Fault> {
        // What was deleted can be read, and nothing can be done with it.
        let there = |value: &&Value| param == "id" || !flag(value, "deleted");
        self.get(kind, id).filter(there).cloned().ok_or_else(|| Fault::no_such(kind, id, param))
    }

    /// All objects of a kind, newest first.
    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        let mut fresh: Vec<&Record> = self
            .overlay
            .iter()
            .filter(|(id, _)| !self.base.contains_key(*id))
            .filter_map(|(_, record)| record.as_ref())
            .filter(|record| record.kind == kind)
            .collect();
        fresh.sort_by_key(|record| std::cmp::Reverse(record.seq));
        let stored = self.order.get(kind).into_iter().flatten().rev().filter_map(|(_, id)| self.record(id));
        fresh.into_iter().chain(stored).map(|record| &record.value).collect()
    }

    /// Inserts or replaces the object; its id is its member `id`.
    pub(crate) fn put(&mut self, kind: &str, value: Value) {
        let id = text(&value, "id").to_owned();
        let seq = match self.record(&id) {
            Some(old) => old.seq,
            None => {
                self.next_seq += 1;
                self.next_seq
            }
        };
        self.overlay.insert(id, Some(Record { kind: kind.to_owned(), seq, value }));
    }

    /// Removes the object.
    pub(crate) fn delete(&mut self, id: &str) {
        self.overlay.insert(id.to_owned(), None);
    }

    /// A fresh identifier.
    pub(crate) fn new_id(&mut self, prefix: &str, len: usize) -> String {
        self.drawn += 1;
        let ids = json!({ "id": "meta_ids", "seed": self.seed, "drawn": self.drawn });
        self.put("_meta", ids);
        ids::make(&self.seed, self.drawn, prefix, len)
    }

    /// The earliest timer not after `until`: its time and the object's id. Only what is stored counts.
    pub(crate) fn next_due(&self, until: i64) -> Option<(i64, String)> {
        let (at, id) = self.due.first()?;
        (*at <= until).then(|| (*at, id.clone()))
    }

    /// The changes of the running transaction: id, and the record or its removal.
    pub(crate) fn changes(&self) -> &BTreeMap<String, Option<Record>> {
        &self.overlay
    }

    /// Whether the running transaction has made this object.
    pub(crate) fn is_new(&self, id: &str) -> bool {
        !self.base.contains_key(id)
    }

    /// Makes the changes visible; the engine has stored them.
    pub(crate) fn commit(&mut self) {
        for (id, change) in std::mem::take(&mut self.overlay) {
            match change {
                Some(record) => self.index(&id, record),
                None => self.unindex(&id),
            }
        }
    }

    /// Forgets the changes.
    pub(crate) fn rollback(&mut self) {
        self.overlay.clear();
        self.recall();
    }

    /// Changes an object in place and, with a type, tells of it by an event that names what was before.
    pub(crate) fn change(
        &mut self,
        kind: &str,
        id: &str,
        event: Option<&str>,
        edit: impl FnOnce(&mut Value),
    ) -> Value {
        let Some(before) = self.get(kind, id).cloned() else { return Value::Null };
        let mut after = before.clone();
        edit(&mut after);
        self.put(kind, after.clone());
        if let Some(event) = event {
            super::events::emit(self, event, &after, Some(super::events::previous(&before, &after)));
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rolled_back_change_leaves_no_trace_and_no_gap_in_time() {
        let mut world = World::default();
        world.seed("s");
        world.put("customer", json!({ "id": "cus_1", "n": 1 }));
        world.commit();
        world.put("customer", json!({ "id": "cus_1", "n": 2 }));
        world.put("customer", json!({ "id": "cus_2" }));
        assert_eq!(world.all("customer").len(), 2);
        world.rollback();
        assert_eq!(world.all("customer"), [&json!({ "id": "cus_1", "n": 1 })]);
    }

    #[test]
    fn lists_are_newest_first_and_keep_their_place_when_changed() {
        let mut world = World::default();
        for id in ["a", "b", "c"] {
            world.put("customer", json!({ "id": id }));
        }
        world.commit();
        world.put("customer", json!({ "id": "a", "x": 1 }));
        world.put("customer", json!({ "id": "d" }));
        let ids: Vec<&str> = world.all("customer").into_iter().map(|value| text(value, "id")).collect();
        assert_eq!(ids, ["d", "c", "b", "a"]);
    }
}
