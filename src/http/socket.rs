//! A WebSocket of one run: what the stream of events tells, each message a JSON object.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Site;
use super::access::Caller;
use super::problem::Problem;
use super::stream::{After, Message, OneRun};
use super::things::{Asked, At};

pub(super) fn routes() -> OpenApiRouter<Arc<Site>> {
    OpenApiRouter::new().routes(routes!(run))
}

/// The same under another path.
pub(super) fn of_run() -> MethodRouter<Arc<Site>> {
    get(run)
}

/// Who does not take a message in this time is let go.
const TAKES: Duration = Duration::from_secs(30);

/// A client has nothing to say but that it goes.
const HEARD: usize = 1 << 10;

/// What happens to a run, as a WebSocket: `{"type": "history", "seq": …, "cursor": …, …}` for each line of its history, numbered from 1;
/// `{"type": "state", …}` where it stands. Closed with 1000 at the run's end, with 1012 where the server ends: come back with `after`.
#[utoipa::path(get, path = "/runs/{id}/ws", tag = "streams",
    params(("id" = Uuid, Path, description = "The run."), After),
    responses((status = 101, description = "The WebSocket."), (status = "4XX", body = Problem, content_type = "application/problem+json"), (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn run(
    State(site): State<Arc<Site>>,
    caller: Caller,
    At(id): At<Uuid>,
    Asked(after): Asked<After>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|refused| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, refused.body_text())
            .hint("/stream beside it tells the same without a WebSocket")
    })?;
    let run = OneRun::of(&site, caller, id, after.cursor(&headers)?).await?;
    Ok(upgrade.max_message_size(HEARD).on_upgrade(|socket| talk(socket, run)))
}

async fn talk(mut socket: WebSocket, mut run: OneRun) {
    loop {
        let (messages, end) = tokio::select! {
            next = run.next() => next,
            heard = socket.recv() => match heard {
                Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let mut frames: Vec<Frame> = messages.into_iter().map(frame).collect();
        if end {
            let (code, reason) = if run.is_over() {
                (close_code::NORMAL, "the run has ended")
            } else {
                (close_code::RESTART, "come back")
            };
            frames.push(Frame::Close(Some(CloseFrame { code, reason: reason.into() })));
        } else if frames.is_empty() {
            frames.push(Frame::Ping(Default::default()));
        }
        for frame in frames {
            let sent = tokio::time::timeout(TAKES, socket.send(frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        if end {
            return;
        }
    }
}

fn frame(message: Message) -> Frame {
    let text = match message {
        Message::History(json, cursor) => format!("{{\"type\":\"history\",\"cursor\":\"{cursor}\",{}", &json[1..]),
        Message::State(json) => format!("{{\"type\":\"state\",{}", &json.to_string()[1..]),
    };
    Frame::Text(text.into())
}
