//! Whether there is room for a new disk, looked at before the old one is given up: what runs out of room half way has
//! thrown the customer's disk away by then.

use super::{
    context::Cx,
    fault::{Class, Trouble},
};

/// Fails if a storage has less than so many bytes free. One that says nothing about itself is no reason to fail: what
/// happens there is seen when it happens.
pub(super) async fn look(cx: &Cx, storage: &str, bytes: u64, what: &str) -> Result<(), Trouble> {
    let all = cx.pve().storages().await?;
    let Some(found) = all.into_iter().find(|one| one.id == storage && one.total > 0) else { return Ok(()) };
    if found.available >= bytes {
        return Ok(());
    }
    let (needed, free) = (mib(bytes), mib(found.available));
    let text = format!(
        "NO_SPACE: {what} may need {needed} MiB on storage {storage}, where {free} MiB are free. Nothing was touched; \
         make room there, then have it ordered anew"
    );
    Err(Trouble::fail(Class::Capacity, text))
}

const fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
