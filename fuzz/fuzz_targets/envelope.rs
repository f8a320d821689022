//! Any bytes decode to an envelope or a typed error; whatever decodes survives its own encoding,
//! and no bytes are believed without a key.
#![no_main]

use ez_protocol::{
    UnixMillis,
    envelope::{Envelope, PayloadType},
    order::ProvisioningOrder,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::decode(data) {
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
        assert!(envelope.verify(PayloadType::Order, &[], UnixMillis(0)).is_err());
    }
    if let Ok(order) = ProvisioningOrder::from_bytes(data) {
        let bytes = order.to_bytes().expect("what was read can be written");
        assert_eq!(ProvisioningOrder::from_bytes(&bytes), Ok(order));
    }
});
