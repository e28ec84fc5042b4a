//! What passes between sqlx and a pooler, message by message. No I/O: bytes in, bytes out.

use std::collections::{HashMap, VecDeque};

use super::settings::{self, Settings};

/// The length of a message's head: its kind, and how long it is.
const HEAD: usize = 5;

/// The start of what was received, when it is a whole message: its length.
pub(super) fn whole(received: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(received.get(1..HEAD)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?.max(4) + 1;
    (received.len() >= length).then_some(length)
}

/// A message: its kind and its body.
pub(super) fn parts(message: &[u8]) -> (u8, &[u8]) {
    (message[0], &message[HEAD..])
}

fn push(out: &mut Vec<u8>, kind: u8, body: &[&[u8]]) {
    let length = 4 + body.iter().map(|part| part.len()).sum::<usize>();
    out.push(kind);
    // What was received in a message fits into one.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    body.iter().for_each(|part| out.extend_from_slice(part));
}

/// A refusal, as a server words it.
pub(super) fn refusal(state: &str, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = format!("SFATAL\0VFATAL\0C{state}\0M{why}\0\0");
    push(&mut out, b'E', &[fields.as_bytes()]);
    out
}

/// The text up to the next NUL, and what follows it.
fn text(body: &[u8]) -> (&[u8], &[u8]) {
    match body.iter().position(|b| *b == 0) {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body, &[]),
    }
}

/// What is to be sent, and to whom.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sent {
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
}

/// One connection's conversation.
#[derive(Debug)]
pub(super) struct Talk {
    settings: Settings,
    /// What sqlx has prepared, by its name: the text, and the types of its parameters.
    statements: HashMap<Vec<u8>, Vec<u8>>,
    /// What is asked for, until its end has come.
    asking: Asking,
    /// What has been sent and not been answered.
    sent: VecDeque<Answer>,
    /// The session stands.
    begun: bool,
    /// No transaction is open.
    idle: bool,
}

#[derive(Debug, Default)]
struct Asking {
    out: Vec<u8>,
    /// The statement that the server has without a name: of this transaction only, for the next one may meet another server.
    holds: Option<Vec<u8>>,
    /// Whose each PARSE is: ours, or sqlx's, which waits for its answer.
    ours: VecDeque<bool>,
    executes: bool,
}

/// What is still to come in answer to one thing that was asked for.
#[derive(Debug)]
struct Answer {
    stage: Stage,
    /// In a transaction that was opened for it.
    wrapped: bool,
    ours: VecDeque<bool>,
    /// One error is told, and not that the rest was passed over because of it.
    failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Opening,
    Answering,
    Committing,
}

impl Talk {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            statements: HashMap::new(),
            asking: Asking::default(),
            sent: VecDeque::new(),
            begun: false,
            idle: false,
        }
    }

    /// A message of sqlx's.
    pub(super) fn asked(&mut self, message: &[u8]) -> Sent {
        let (kind, body) = parts(message);
        match kind {
            _ if !self.begun => return Sent { to_server: message.to_vec(), ..Sent::default() },
            b'P' => {
                let (name, rest) = text(body);
                self.statements.insert(name.to_vec(), rest.to_vec());
                self.parse(name, false);
            }
            b'B' => {
                let (portal, rest) = text(body);
                let (name, rest) = text(rest);
                self.has(name);
                push(&mut self.asking.out, b'B', &[portal, b"\0\0", rest]);
            }
            b'D' if body.first() == Some(&b'S') => {
                self.has(text(&body[1..]).0);
                push(&mut self.asking.out, b'D', &[b"S\0"]);
            }
            b'C' if body.first() == Some(&b'S') => {
                self.statements.remove(text(&body[1..]).0);
                self.asking.holds = None;
                push(&mut self.asking.out, b'C', &[b"S\0"]);
            }
            b'S' => return self.all_asked(),
            b'Q' => return self.asked_simply(body),
            b'X' => return Sent { to_server: message.to_vec(), ..Sent::default() },
            _ => {
                self.asking.executes |= kind == b'E';
                self.asking.out.extend_from_slice(message);
            }
        }
        Sent::default()
    }

    /// The server has this statement, without a name, before what comes next.
    fn has(&mut self, name: &[u8]) {
        if self.asking.holds.as_deref() != Some(name) {
            self.parse(name, true);
        }
    }

    fn parse(&mut self, name: &[u8], ours: bool) {
        // One that was never prepared is the server's to refuse.
        let Some(statement) = self.statements.get(name) else { return };
        push(&mut self.asking.out, b'P', &[b"\0", statement]);
        self.asking.holds = Some(name.to_vec());
        self.asking.ours.push_back(ours);
    }

    /// All that belongs together has come: it is sent, in a transaction of its own where none is open.
    fn all_asked(&mut self) -> Sent {
        let Asking { out, ours, executes, .. } = std::mem::take(&mut self.asking);
        let wrapped = executes && self.idle && self.sent.is_empty() && !self.settings.is_empty();
        let mut to_server = Vec::with_capacity(out.len() + 256);
        if wrapped {
            push(&mut to_server, b'Q', &[b"BEGIN; ", self.settings.local().as_bytes(), b"\0"]);
        }
        to_server.extend_from_slice(&out);
        push(&mut to_server, b'S', &[]);
        if wrapped {
            push(&mut to_server, b'Q', &[b"COMMIT\0"]);
        }
        let stage = if wrapped { Stage::Opening } else { Stage::Answering };
        self.sent.push_back(Answer { stage, wrapped, ours, failed: false });
        Sent { to_server, ..Sent::default() }
    }

    /// A text: what opens a transaction brings the settings into it; a setting for the session is kept here.
    fn asked_simply(&mut self, body: &[u8]) -> Sent {
        let said = String::from_utf8_lossy(text(body).0).into_owned();
        let mut sent = Sent::default();
        if let Some((name, value)) = settings::assignment(&said) {
            self.settings.set(&name, &value);
            push(&mut sent.to_client, b'C', &[b"SET\0"]);
            push(&mut sent.to_client, b'Z', &[if self.idle { b"I" } else { b"T" }]);
            return sent;
        }
        let said = if self.idle { settings::in_transaction(&said, &self.settings.local()) } else { said };
        push(&mut sent.to_server, b'Q', &[said.as_bytes(), b"\0"]);
        self.sent.push_back(Answer { stage: Stage::Answering, wrapped: false, ours: VecDeque::new(), failed: false });
        sent
    }

    /// A message of the server's: is it for sqlx?
    pub(super) fn answered(&mut self, message: &[u8]) -> bool {
        let (kind, body) = parts(message);
        let Some(answer) = self.sent.front_mut() else {
            if kind == b'Z' {
                (self.begun, self.idle) = (true, body == b"I");
            }
            return true;
        };
        match (answer.stage, kind) {
            // Notices, parameters: whenever the server likes.
            (_, b'N' | b'S' | b'A') => true,
            (_, b'E') => !std::mem::replace(&mut answer.failed, true),
            (Stage::Opening, b'Z') => {
                answer.stage = Stage::Answering;
                false
            }
            (Stage::Answering, b'Z') if answer.wrapped => {
                answer.stage = Stage::Committing;
                false
            }
            (_, b'Z') => {
                self.idle = body == b"I";
                self.sent.pop_front();
                true
            }
            (Stage::Answering, b'1') => answer.ours.pop_front() != Some(true),
            (stage, _) => stage == Stage::Answering,
        }
    }
}
