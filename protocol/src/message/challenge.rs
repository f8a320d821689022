//! Control stream: which agent holds a connection, asked when another one comes with the same identity.
//!
//! Both frames are optional: an agent of an older version skips the question, and its silence is what a connection
//! that is dead says, too.

/// Asks whoever holds this connection to show that it lives and which agent it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Challenge {
    /// Random; repeated in the answer.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
}

/// Answers a challenge with what the agent has *now*, not with what it had when it said Hello.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChallengeAnswer {
    /// From the challenge.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// As in [`super::Hello`]: SHA-256 over machine id, hardware UUID and permanent MACs, hexadecimal.
    #[prost(string, tag = "2")]
    pub fingerprint: String,
    /// The value of the newest Welcome that is in its journal. Two agents on one journal have the same, an agent
    /// on a copy has not.
    #[prost(bytes = "vec", tag = "3")]
    pub ratchet: Vec<u8>,
    /// As in [`super::Hello`]: random per process.
    #[prost(string, tag = "4")]
    pub report_epoch: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::frame::{Decoder, Frame, FrameType, OPTIONAL_FROM, StreamKind};

    fn hex(frame: &Frame) -> String {
        frame.encode(StreamKind::Control).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_on_the_wire_stay_as_they_are() {
        let challenge = Challenge { nonce: vec![0xaa; 4] };
        assert_eq!(hex(&Frame::new(FrameType::Challenge, &challenge)), "0000000680010a04aaaaaaaa");
        let answer = ChallengeAnswer {
            nonce: vec![0xaa; 4],
            fingerprint: "f1".into(),
            ratchet: vec![1, 2],
            report_epoch: "r1".into(),
        };
        assert_eq!(
            hex(&Frame::new(FrameType::ChallengeAnswer, &answer)),
            "0000001280020a04aaaaaaaa120266311a02010222027231"
        );
    }

    #[test]
    fn whoever_does_not_know_them_may_skip_them() {
        for kind in [FrameType::Challenge, FrameType::ChallengeAnswer] {
            assert!(kind.code() >= OPTIONAL_FROM);
            assert_eq!(FrameType::from_code(kind.code()), Some(kind));
        }
    }

    proptest! {
        #[test]
        fn answers_survive_the_wire(
            nonce in proptest::collection::vec(any::<u8>(), 0..40),
            fingerprint in ".{0,80}",
            ratchet in proptest::collection::vec(any::<u8>(), 0..40),
            report_epoch in "[0-9a-f]{0,16}",
        ) {
            let answer = ChallengeAnswer { nonce, fingerprint, ratchet, report_epoch };
            let bytes = Frame::new(FrameType::ChallengeAnswer, &answer).encode(StreamKind::Control).unwrap();
            let mut decoder = Decoder::new(StreamKind::Control);
            decoder.push(&bytes);
            let frame = decoder.next_frame().unwrap().unwrap();
            prop_assert_eq!(frame.kind(), Some(FrameType::ChallengeAnswer));
            prop_assert_eq!(ChallengeAnswer::decode(frame.body.as_slice()).unwrap(), answer);
        }

        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _either = ChallengeAnswer::decode(body.as_slice());
            let _either = Challenge::decode(body.as_slice());
        }
    }
}
