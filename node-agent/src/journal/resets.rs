//! Passwords that wait for a guest's next boot. They stay until a newer one comes or is set at once: the guest does each
//! once, and a disk that goes back in time (rollback, restore) gets it again.

use ez_protocol::{InstanceId, ProvisioningOrderId, order::PasswordHash};
use sqlx::{Row, SqliteConnection};

use super::{Journal, JournalError, parsed};
use crate::{cloudinit::PasswordReset, pve::Upid};

/// The instance is gone from this node, and its password with it.
pub(super) async fn forget(conn: &mut SqliteConnection, instance: InstanceId) -> Result<(), JournalError> {
    sqlx::query("DELETE FROM password_resets WHERE instance_uuid = $1")
        .bind(instance.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

impl Journal {
    /// Keeps a password for the next boot, in place of an older one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn set_reset(
        &self,
        instance: InstanceId,
        order: ProvisioningOrderId,
        hash: PasswordHash,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO password_resets (instance_uuid, order_id, hash) VALUES ($1, $2, $3) \
                     ON CONFLICT (instance_uuid) DO UPDATE SET order_id = excluded.order_id, hash = excluded.hash",
                )
                .bind(instance.to_string())
                .bind(order.to_string())
                .bind(hash.as_str().to_owned())
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// The password of an order waits no longer: the guest has it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn drop_reset(
        &self,
        instance: InstanceId,
        order: ProvisioningOrderId,
    ) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("DELETE FROM password_resets WHERE instance_uuid = $1 AND order_id = $2")
                    .bind(instance.to_string())
                    .bind(order.to_string())
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The password that waits for an instance's next boot.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn reset_of(&self, instance: InstanceId) -> Result<Option<PasswordReset>, JournalError> {
        let row = sqlx::query("SELECT order_id, hash FROM password_resets WHERE instance_uuid = $1")
            .bind(instance.to_string())
            .fetch_optional(self.readers())
            .await?;
        row.map(|row| {
            Ok(PasswordReset {
                order: parsed("password_resets", "order_id", row.try_get("order_id")?)?,
                hash: parsed("password_resets", "hash", row.try_get("hash")?)?,
            })
        })
        .transpose()
    }

    /// Whether the journal knows a task as one of another order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn is_task_of_another(
        &self,
        upid: &Upid,
        order: ProvisioningOrderId,
    ) -> Result<bool, JournalError> {
        let row = sqlx::query("SELECT 1 FROM steps WHERE upid = $1 AND order_id <> $2 LIMIT 1")
            .bind(upid.as_str())
            .bind(order.to_string())
            .fetch_optional(self.readers())
            .await?;
        Ok(row.is_some())
    }
}
