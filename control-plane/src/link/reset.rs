//! Stateless resets that survive a restart.
//!
//! A process that was killed knows nothing of its connections. When an agent's next packet arrives, QUIC lets
//! the new process say so, but the agent believes it only with a token that the old one had derived. With the
//! same key both derive the same tokens, and agents come back within their keep-alive (10 s) instead of
//! waiting for the idle time-out (30 s). Whoever has the key can end connections, nothing else.

use std::{sync::Arc, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig,
    crypto::{CryptoError, HmacKey},
};
use sha2::Sha256;

use super::endpoint::LinkError;
use crate::entropy::{Entropy, EntropyExt as _};

/// A reset is smaller than the packet it answers, so they need no more room than this between them; quinn's
/// default of 20 ms would tell 10,000 agents of a restart over more than three minutes.
const BETWEEN: Duration = Duration::from_micros(500);

/// Length of our connection ids.
const ID_BYTES: usize = 8;

struct ResetKey(Hmac<Sha256>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.0.clone().chain_update(data).finalize().into_bytes();
        signature_out.copy_from_slice(&tag);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.0.clone().chain_update(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}

/// Random connection ids. Quinn's default signs them with a key of the process and drops, unanswered, what
/// another process had given out.
struct RandomIds(Arc<dyn Entropy>);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.bytes::<ID_BYTES>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The endpoint's settings with reset tokens derived from `key`.
pub(super) fn endpoint_config(
    key: &[u8; 32],
    entropy: &Arc<dyn Entropy>,
) -> Result<EndpointConfig, LinkError> {
    let mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| LinkError::Tls)?;
    let mut config = EndpointConfig::new(Arc::new(ResetKey(mac)));
    let entropy = entropy.clone();
    config
        .min_reset_interval(BETWEEN)
        .cid_generator(move || -> Box<dyn ConnectionIdGenerator> { Box::new(RandomIds(entropy.clone())) });
    Ok(config)
}
