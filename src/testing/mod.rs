//! Failpoints: named places at which a test makes this process crash, stop or pause. Compiled to nothing
//! without the feature `failpoints`.

/// The failpoints that one engine carries; never global.
#[derive(Clone, Debug, Default)]
pub struct Failpoints {
    #[cfg(feature = "failpoints")]
    points: std::sync::Arc<std::collections::HashMap<String, armed::Armed>>,
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::atomic::AtomicI64;

    #[derive(Debug)]
    pub(super) struct Armed {
        pub left: AtomicI64,
        pub action: Action,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Action {
        Kill,
        Stop,
        Hang,
    }
}

#[cfg(feature = "failpoints")]
impl Failpoints {
    /// Reads `name=N:action, …`: at the N-th hit of `name` the process is killed (`kill`, SIGKILL) or stopped (`stop`, SIGSTOP), or
    /// whoever hits it hangs for ever (`hang`).
    ///
    /// # Errors
    /// The part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut points = std::collections::HashMap::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let bad = || format!("failpoint `{part}` is not of the form name=N:kill, name=N:stop or name=N:hang");
            let (name, rest) = part.split_once('=').ok_or_else(bad)?;
            let (n, action) = rest.split_once(':').ok_or_else(bad)?;
            let action = match action {
                "kill" => armed::Action::Kill,
                "stop" => armed::Action::Stop,
                "hang" => armed::Action::Hang,
                _ => return Err(bad()),
            };
            let left = std::sync::atomic::AtomicI64::new(n.parse().map_err(|_| bad())?);
            points.insert(name.to_owned(), armed::Armed { left, action });
        }
        Ok(Self { points: std::sync::Arc::new(points) })
    }

    /// The place is passed.
    #[allow(clippy::unused_async)]
    pub async fn hit(&self, name: &str) {
        use nix::sys::signal::{Signal, raise};
        let Some(armed) = self.points.get(name) else { return };
        if armed.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) != 1 {
            return;
        }
        let signal = match armed.action {
            armed::Action::Kill => Signal::SIGKILL,
            armed::Action::Stop => Signal::SIGSTOP,
            armed::Action::Hang => return std::future::pending().await,
        };
        // A failure to raise would show as a test that waits for ever.
        let _ = raise(signal);
    }
}

#[cfg(not(feature = "failpoints"))]
impl Failpoints {
    /// Nothing.
    #[inline]
    #[allow(clippy::unused_async)]
    pub async fn hit(&self, _name: &str) {}
}
