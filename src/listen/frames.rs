//! HTTP/2 frames as they pass by (RFC 9113 section 4.1): is the head of a request unfinished, and
//! what did frames without a request cost?

use super::head::PREFACE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A reset throws work away; the other frames that are counted only have to be read and answered.
const RESET: u64 = 4;

/// Reads frame headers and nothing else; what they mean is the HTTP/2 library's to judge.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the connection preface that were seen.
    preface: usize,
    head: [u8; 9],
    /// Bytes of `head` that were seen.
    have: usize,
    /// Bytes of the frame's payload still to come.
    left: usize,
    /// Between HEADERS and the frame that ends its header block.
    block: bool,
    /// Frames that were whole, a header block counted as one.
    whole: u64,
    cost: u64,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            preface: 0,
            head: [0; 9],
            have: 0,
            left: 0,
            block: false,
            whole: 0,
            cost: 0,
        }
    }

    /// What the client sent next.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = if self.preface < PREFACE.len() {
                PREFACE.len() - self.preface
            } else if self.have < self.head.len() {
                self.head.len() - self.have
            } else {
                self.left
            };
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            if self.preface < PREFACE.len() {
                self.preface += now.len();
                continue;
            }
            if self.have < self.head.len() {
                let (from, to) = (self.have, self.have + now.len());
                if let Some(part) = self.head.get_mut(from..to) {
                    part.copy_from_slice(now);
                }
                self.have = to;
                if self.have == self.head.len() {
                    self.begin();
                }
            } else {
                self.left -= now.len();
            }
            if self.have == self.head.len() && self.left == 0 {
                self.have = 0;
                self.whole += u64::from(!self.block);
            }
        }
    }

    /// While something is unfinished that is not a body: which one, so that a deadline can be told
    /// from the next one's.
    pub(super) fn unfinished(&self) -> Option<u64> {
        let body = self.have == self.head.len() && self.kind() == DATA;
        let waits = self.whole == 0 || self.block || (self.have > 0 && !body);
        waits.then_some(self.whole)
    }

    /// The cost of what was seen since the last call.
    pub(super) fn cost(&mut self) -> u64 {
        std::mem::take(&mut self.cost)
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.cost += match kind {
            HEADERS => 0,
            DATA => u64::from(self.left == 0 && flags & END_STREAM == 0),
            SETTINGS | PING => u64::from(flags & ACK == 0),
            RST_STREAM => RESET,
            _ => 1,
        };
        if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.block = flags & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut all = vec![
            0,
            0,
            u8::try_from(payload.len()).unwrap(),
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        all.extend_from_slice(payload);
        all
    }

    fn after(parts: &[&[u8]]) -> Frames {
        let mut frames = Frames::new();
        for part in parts {
            frames.see(part);
        }
        frames
    }

    #[test]
    fn a_connection_is_unfinished_until_its_first_frame_is_whole() {
        assert!(after(&[]).unfinished().is_some());
        assert!(after(&[PREFACE]).unfinished().is_some());
        let settings = frame(SETTINGS, 0, &[0; 6]);
        assert!(after(&[PREFACE, &settings[..12]]).unfinished().is_some());
        assert!(after(&[PREFACE, &settings]).unfinished().is_none());
    }

    #[test]
    fn a_header_block_is_unfinished_until_its_end_and_a_body_never_is() {
        let settings = frame(SETTINGS, 0, &[]);
        let (open, more, end) = (
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, END_HEADERS, b"d"),
        );
        let began = after(&[PREFACE, &settings, &open]).unfinished();
        assert!(began.is_some());
        assert_eq!(
            after(&[PREFACE, &settings, &open, &more, &more]).unfinished(),
            began,
            "still the same block"
        );
        assert!(
            after(&[PREFACE, &settings, &open, &more, &end])
                .unfinished()
                .is_none()
        );
        let data = frame(DATA, 0, b"half a body");
        assert!(
            after(&[PREFACE, &settings, &data[..12]])
                .unfinished()
                .is_none()
        );
        assert!(
            after(&[PREFACE, &settings, &data[..4]])
                .unfinished()
                .is_some(),
            "a frame's own header is no body"
        );
    }

    #[test]
    fn requests_are_free_and_noise_costs() {
        let mut frames = after(&[
            PREFACE,
            &frame(SETTINGS, 0, &[]),
            &frame(HEADERS, END_HEADERS, b"x"),
            &frame(DATA, 0, b"x"),
        ]);
        assert_eq!(frames.cost(), 1);
        for _ in 0..10 {
            frames.see(&frame(PING, 0, &[0; 8]));
            frames.see(&frame(PING, ACK, &[0; 8]));
            frames.see(&frame(RST_STREAM, 0, &[0; 4]));
        }
        assert_eq!((frames.cost(), frames.cost()), (50, 0));
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(bytes: Vec<u8>, cut in 0usize..100) {
            let mut all = PREFACE.to_vec();
            all.extend_from_slice(&bytes);
            let cut = cut.min(all.len());
            let (mut whole, mut parts) = (after(&[&all]), after(&[&all[..cut], &all[cut..]]));
            proptest::prop_assert_eq!(whole.unfinished(), parts.unfinished());
            proptest::prop_assert_eq!(whole.cost(), parts.cost());
        }
    }
}
