//! The webhooks of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderName;

use crate::expression::{Host, Template};
use crate::http::{Does, Hook};

use super::build;
use super::config::{Config, HttpHook};
use super::outside::filled;

/// Where GitHub, and whoever does as it does, puts the signature; and Stripe.
const HEADER: &str = "x-hub-signature-256";
const TIMED_HEADER: &str = "stripe-signature";

/// How far a time may be away.
const TOLERANCE: u64 = 300;

/// A secret that can be guessed is none.
const SHORTEST: usize = 8;

/// All of them, by name; or what is wrong with one.
pub(super) fn hooks(config: &Config) -> Result<BTreeMap<String, Hook>, String> {
    let hook = |(name, said): (&String, &HttpHook)| {
        let hook = hook(config, name, said).map_err(|why| format!("http_hooks.{name}: {why}"))?;
        Ok((name.clone(), hook))
    };
    config.http_hooks.iter().map(hook).collect()
}

fn hook(config: &Config, name: &str, said: &HttpHook) -> Result<Hook, String> {
    let secret = said.secret.as_deref().ok_or("it needs a secret, by which the sender is known")?;
    let secret = filled(config, &format!("http_hooks.{name}.secret"), secret).map_err(|e| e.to_string())?;
    if secret.len() < SHORTEST {
        return Err(format!("its secret can be guessed: take {SHORTEST} characters or more"));
    }
    let timed = said.signed.as_deref() == Some("time_and_body");
    if said.tolerance_seconds.is_some() && !timed {
        return Err("tolerance_seconds goes with signed = \"time_and_body\"".to_owned());
    }
    let header = said.header.as_deref().unwrap_or(if timed { TIMED_HEADER } else { HEADER });
    let header: HeaderName = header.parse().map_err(|_| format!("`{header}` is no name of a header"))?;
    let template = |part: &str, text: &Option<String>| -> Result<Option<Template>, String> {
        text.as_deref().map(|text| Template::string(text).map_err(|e| format!("{part}: {e}"))).transpose()
    };
    let key = template("unique_key", &said.unique_key)?;
    let does = match (&said.workflow, &said.event) {
        (Some(workflow), None) => Does::Enqueue(workflow.clone(), key),
        (None, Some(_)) if key.is_some() => return Err("unique_key goes with a workflow: an event has none".to_owned()),
        (None, Some(event)) => Does::Emit(event.clone()),
        (Some(_), Some(_)) => return Err("it has a workflow and an event: remove one".to_owned()),
        (None, None) => return Err("it needs a workflow to enqueue, or an event to emit".to_owned()),
    };
    let whole = Some("${{ body }}".to_owned());
    let input = if said.input.is_some() { &said.input } else { &whole };
    Ok(Hook {
        secret,
        header,
        tolerance: timed.then(|| said.tolerance_seconds.unwrap_or(TOLERANCE)),
        does,
        when: template("when", &said.when)?,
        delivery: template("delivery", &said.delivery)?,
        input: template("input", input)?.unwrap_or_else(|| Template::constant(serde_json::Value::Null)),
        // What is sent on is no place for secrets.
        host: Arc::new(Host { env: build::host(config).env.clone(), ..Host::default() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_said_with_what_to_do() {
        type Change = fn(&mut HttpHook);
        let said = |change: Change| {
            let mut hook =
                HttpHook { secret: Some("long enough".into()), event: Some("e".into()), ..HttpHook::default() };
            change(&mut hook);
            let http_hooks = BTreeMap::from([("h".to_owned(), hook)]);
            hooks(&Config { http_hooks, ..Config::default() }).map(|h| h["h"].header.to_string())
        };
        assert_eq!(said(|_| {}).unwrap(), HEADER);
        assert_eq!(said(|h| h.signed = Some("time_and_body".into())).unwrap(), TIMED_HEADER);
        let wrong: [(Change, &str); 8] = [
            (|h| h.secret = None, "needs a secret"),
            (|h| h.secret = Some("short".into()), "can be guessed"),
            (|h| h.secret = Some("${{ secrets.none }}".into()), "which is not there"),
            (|h| h.event = None, "needs a workflow"),
            (|h| h.workflow = Some("w".into()), "remove one"),
            (|h| h.unique_key = Some("k".into()), "goes with a workflow"),
            (|h| h.when = Some("${{ 1 + }}".into()), "when: "),
            (|h| h.tolerance_seconds = Some(5), "time_and_body"),
        ];
        for (change, words) in wrong {
            let why = said(change).unwrap_err();
            assert!(why.starts_with("http_hooks.h: ") && why.contains(words), "{words}: {why}");
        }
    }
}
