//! The ids of spans, and the trace context that is handed on.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// A span's id.
pub type SpanId = [u8; 8];

/// What a span stands for, within its run.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Place<'a> {
    /// A part of the run's life, from 0.
    Root(u32),
    /// A step, as far as it lies in a part.
    Step { key: &'a str, part: u32 },
    /// A try of a step, by the claim that saw its end.
    Attempt { key: &'a str, attempt: u32, epoch: i32 },
    /// A call, by the claim that made it.
    Call { epoch: i32, n: u32 },
}

impl Place<'_> {
    /// The same at all times and on all machines.
    #[must_use]
    pub fn id(self, run: Uuid) -> SpanId {
        let mut hash = Sha256::new();
        hash.update(run.as_bytes());
        match self {
            Self::Root(part) => hash.update([&b"run"[..], &part.to_be_bytes()].concat()),
            Self::Step { key, part } => hash.update([&b"step"[..], &part.to_be_bytes(), key.as_bytes()].concat()),
            Self::Attempt { key, attempt, epoch } => {
                hash.update([&b"attempt"[..], &attempt.to_be_bytes(), &epoch.to_be_bytes(), key.as_bytes()].concat());
            }
            Self::Call { epoch, n } => hash.update([&b"call"[..], &epoch.to_be_bytes(), &n.to_be_bytes()].concat()),
        }
        let digest = hash.finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        // All zeros is no id.
        if id == [0; 8] { [1; 8] } else { id }
    }
}

/// A W3C trace context, version 00.
#[must_use]
pub fn traceparent(run: Uuid, span: SpanId, sampled: bool) -> String {
    format!("00-{}-{:016x}-{:02x}", run.simple(), u64::from_be_bytes(span), u8::from(sampled))
}

/// The trace and the span of a trace context; `None`: it is none.
#[must_use]
pub fn parsed(text: &str) -> Option<([u8; 16], SpanId)> {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let parts: Vec<&str> = text.trim().split('-').collect();
    let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return None };
    let sized = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
    // A later version may say more behind it; 00 may not, and ff is none.
    if !sized || ![version, trace, span, flags].into_iter().all(|p| hex(p)) || *version == "ff" {
        return None;
    }
    if *version == "00" && !more.is_empty() {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|n| *n != 0)?;
    let span = u64::from_str_radix(span, 16).ok().filter(|n| *n != 0)?;
    Some((trace.to_be_bytes(), span.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_place_in_one_run_and_always_the_same() {
        let run = Uuid::from_u128(7);
        let places = [
            Place::Root(0),
            Place::Root(1),
            Place::Step { key: "a", part: 0 },
            Place::Step { key: "b", part: 0 },
            Place::Attempt { key: "a", attempt: 1, epoch: 1 },
            Place::Attempt { key: "a", attempt: 1, epoch: 3 },
            Place::Call { epoch: 1, n: 1 },
        ];
        let mut ids: Vec<SpanId> = places.iter().map(|p| p.id(run)).collect();
        assert_eq!(ids, places.iter().map(|p| p.id(run)).collect::<Vec<_>>());
        assert_ne!(ids[0], Place::Root(0).id(Uuid::from_u128(8)));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), places.len());
    }

    #[test]
    fn a_context_comes_back_and_what_is_none_is_refused() {
        let run = Uuid::from_u128(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        let span = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
        let text = traceparent(run, span, true);
        assert_eq!(text, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(parsed(&text), Some((*run.as_bytes(), span)));
        assert!(parsed("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
        for none in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333ä-01",
        ] {
            assert_eq!(parsed(none), None, "{none}");
        }
    }
}
