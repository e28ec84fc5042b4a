//! Bodies of those who have not proved yet who they are: a signature stands over the whole body, so it is held before it is known to be
//! anybody's. All of them together have a room of their own, or whoever finds a hook could fill this process' memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Request};
use axum::http::StatusCode;
use futures_util::TryStreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::things::InTime;

/// So much of each body counts for nothing: webhooks are small, and those are taken whatever others send. There are only so many
/// connections.
const SMALL: usize = 64 << 10;

/// Beyond that, all of them together.
const ROOM: usize = 64 << 20;

/// The room, in bytes.
pub(super) struct Unproven(Arc<Semaphore>);

/// The part of it that a body takes up; free again when this is dropped.
#[must_use]
pub(super) struct Held(#[expect(dead_code, reason = "it is held")] Arc<Mutex<Taken>>);

impl Default for Unproven {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Unproven {
    /// The body, with what it takes up. It comes in time, and is no longer than bodies may be.
    ///
    /// # Errors
    /// It does not, or it is, or there is no room for it now.
    pub(super) async fn read(&self, request: Request) -> Result<(Bytes, Held), Problem> {
        let (head, body) = request.into_parts();
        let taken = Arc::new(Mutex::new(Taken { room: self.0.clone(), small: SMALL, held: None }));
        let full = Arc::new(AtomicBool::new(false));
        let (takes, fills) = (taken.clone(), full.clone());
        let counted = body.into_data_stream().map_err(BoxError::from).and_then(move |chunk| {
            let fits = takes.lock().unwrap_or_else(PoisonError::into_inner).takes(chunk.len());
            fills.fetch_or(!fits, Ordering::Relaxed);
            std::future::ready(if fits { Ok(chunk) } else { Err("there is no room".into()) })
        });
        let read = InTime::<Bytes>::from_request(Request::from_parts(head, Body::from_stream(counted)), &()).await;
        if full.load(Ordering::Relaxed) {
            return Err(busy());
        }
        Ok((read?.0, Held(taken)))
    }
}

fn busy() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too much is being sent here by others that have not proved who they are",
    )
    .hint("send it again in a moment")
}

/// What one body takes up.
struct Taken {
    room: Arc<Semaphore>,
    /// What is left of the part that does not count.
    small: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// So many bytes more; false where there is no room for them.
    fn takes(&mut self, bytes: usize) -> bool {
        let counted = bytes.saturating_sub(self.small);
        self.small = self.small.saturating_sub(bytes);
        let Ok(counted) = u32::try_from(counted) else { return false };
        let Ok(more) = self.room.clone().try_acquire_many_owned(counted) else { return false };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_is_taken_when_all_room_is_taken_and_what_is_dropped_makes_room() {
        let room = Arc::new(Semaphore::new(1_000));
        let body = || Taken { room: room.clone(), small: 100, held: None };
        let (mut large, mut next, mut small) = (body(), body(), body());
        assert!(large.takes(60) && large.takes(60) && room.available_permits() == 980);
        assert!(large.takes(980) && !large.takes(1));
        assert!(small.takes(100) && !small.takes(1));
        assert!(!next.takes(101));
        drop(large);
        assert!(small.takes(400) && body().takes(700) && room.available_permits() == 600);
    }
}
