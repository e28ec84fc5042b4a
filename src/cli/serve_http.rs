//! `stepd serve --no-work`: the HTTP server alone, on a host of its own.

use std::sync::Arc;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::config::Sources;
use crate::app::systemd::{Systemd, watchdog};
use crate::app::{Config, Daemon, build, gauges, site};
use crate::http::{Readiness, Site};
use crate::steps::ProcessOptions;

use super::Exit;
use super::errors::refused;
use super::serve::{CLOSING, reach, told_to_end};

/// What a reload takes up: all else that such a process has is bound.
const LIVE: [&str; 5] = ["env", "secrets", "http_hosts", "http_tokens", "http_hooks"];

pub(super) async fn serve(sources: Sources, mut config: Config, migrate_now: bool) -> anyhow::Result<Exit> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let systemd = Systemd::from_env();
    let db = Daemon::database(&config)?;
    tokio::select! {
        ready = reach(&db, migrate_now, &systemd) => ready?,
        () = told_to_end(&mut signals) => return Ok(Exit::Ok),
    }
    let (stop, stopped) = watch::channel(false);
    // Whether the database answers is asked anew each time.
    let ready: Readiness = Arc::new(|| Ok(false));
    let (_, outside) = build::kinds(&config, ProcessOptions::own_guard())?;
    let metrics = gauges::of_process(&db);
    let Some(bound) = site::bind(&config, &db, ready, outside.servers.clone(), metrics, stopped).await? else {
        return Err(refused(
            Exit::Error,
            "--no-work serves HTTP alone, and there is no address: http_listen names a free one",
        ));
    };
    tracing::info!(address = %bound.address(), version = env!("CARGO_PKG_VERSION"), "listening");
    let site = bound.site();
    let mut serving = JoinSet::new();
    serving.spawn(bound.serve());
    tracing::info!("ready");
    systemd.ready("serves HTTP alone");
    let mut pulse = tokio::time::interval(watchdog().map_or(CLOSING, |w| w / 3));
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            _ = pulse.tick() => {
                systemd.alive();
                continue;
            }
        };
        if signal != Some(SIGHUP) {
            break;
        }
        systemd.reloading();
        reload(&sources, &mut config, &site);
        systemd.ready("serves HTTP alone");
    }
    tracing::info!("stopping");
    systemd.stopping(CLOSING);
    stop.send_replace(true);
    let clean = tokio::time::timeout(CLOSING, async { while serving.join_next().await.is_some() {} }).await.is_ok();
    outside.servers.close().await;
    tracing::info!(clean, "stopped");
    Ok(Exit::Ok)
}

/// Everything new is read and checked, then taken up; or all stays as it was, and the log says why.
fn reload(sources: &Sources, config: &mut Config, site: &Site) {
    let read = sources.load().map_err(|e| e.to_string());
    let read = read.and_then(|new| Ok((site::rules(&new.config).map_err(|e| e.to_string())?, new.config)));
    match read {
        Ok((rules, new)) => {
            new.hide_secrets();
            let (keys, restart): (Vec<_>, Vec<_>) =
                config.differing(&new).into_iter().partition(|key| LIVE.contains(key));
            site.replace(rules);
            tracing::info!(keys = keys.join(", "), "reloaded");
            if !restart.is_empty() {
                tracing::warn!(keys = restart.join(", "), "these keys have changed too, and need a restart");
            }
            *config = Config {
                env: new.env,
                secrets: new.secrets,
                http_hosts: new.http_hosts,
                http_tokens: new.http_tokens,
                http_hooks: new.http_hooks,
                ..config.clone()
            };
        }
        Err(error) => tracing::error!(error, "reload failed: everything stays as it was"),
    }
}
