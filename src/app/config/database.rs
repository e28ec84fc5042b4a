//! Which database: a URL, or its parts, or both; one host, or several of which the first writable one is used.

use sqlx::postgres::PgConnectOptions;

use super::{Config, ConfigError};

/// A URL in pieces, percent-encoded as they stand there. sqlx knows one host; here may be several, as for libpq.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url {
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<String>)>,
    name: Option<String>,
    query: Vec<(String, String)>,
}

/// Is this a URL of a database? The error never repeats it: a password may be in it.
pub(super) fn check_url(text: &str) -> Result<(), String> {
    hosts_of(text).map(drop)
}

/// The hosts that a URL names.
pub(crate) fn hosts_of(text: &str) -> Result<Vec<PgConnectOptions>, String> {
    parse(text).and_then(|url| options(&url))
}

/// The text with its password hidden.
pub(super) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "***".to_owned() };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    // A password may have an @ or a / in it that should have been encoded.
    let place = match rest.rsplit_once('@') {
        Some((user, place)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{place}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let query = query.map(|q| {
        let hide = |pair: &str| if pair.starts_with("password=") { "password=***".to_owned() } else { pair.to_owned() };
        format!("?{}", q.split('&').map(hide).collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{place}{}", query.unwrap_or_default())
}

/// The password in a URL, decoded.
pub(super) fn password(text: &str) -> Option<String> {
    let url = parse(text).ok()?;
    let in_query = url.query.iter().find(|(key, _)| key == "password").map(|(_, value)| value.clone());
    url.password.or(in_query).map(|spelled| decoded(&spelled))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'%', [a, b, tail @ ..]) if hex(a).is_some() && hex(b).is_some() => {
                bytes.push(hex(a).unwrap_or_default() << 4 | hex(b).unwrap_or_default());
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse(text: &str) -> Result<Url, String> {
    let no_url = || "it looks like postgres://user:password@host:5432/database".to_owned();
    let (scheme, rest) = text.split_once("://").ok_or_else(no_url)?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(no_url());
    }
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let mut url = Url { name: some(path), ..Url::default() };
    if let Some(user) = user {
        let (user, password) = user.split_once(':').map_or((user, None), |(user, password)| (user, Some(password)));
        (url.user, url.password) = (some(user), password.and_then(some));
    }
    url.hosts = named(hosts);
    let mut ports = String::new();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match key {
            "host" => {
                // The port beside the host that is replaced stays.
                ports =
                    url.hosts.first().and_then(|(_, port)| port.clone()).filter(|_| ports.is_empty()).unwrap_or(ports);
                url.hosts =
                    named(&value.replace("%2F", "/").replace("%2f", "/").replace("%2C", ",").replace("%2c", ","));
            }
            "port" => ports = value.replace("%2C", ",").replace("%2c", ","),
            // Which of several hosts is used, stepd decides: it must write.
            "target_session_attrs" => {}
            _ => url.query.push((key.to_owned(), value.to_owned())),
        }
    }
    if !ports.is_empty() {
        url.set_ports(&ports)?;
    }
    Ok(url)
}

fn named(hosts: &str) -> Vec<(String, Option<String>)> {
    hosts.split(',').filter(|h| !h.is_empty()).map(host_and_port).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|t| !t.is_empty())
}

/// `host:port`, `[::1]:port`, or either without a port.
fn host_and_port(text: &str) -> (String, Option<String>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && !host.starts_with('/') => (host.to_owned(), some(port)),
        _ => (text.to_owned(), None),
    }
}

impl Url {
    /// One port for all hosts, or one for each.
    fn set_ports(&mut self, text: &str) -> Result<(), String> {
        let ports: Vec<&str> = text.split(',').map(str::trim).collect();
        if self.hosts.is_empty() {
            self.hosts.push((String::new(), None));
        }
        if ports.len() != 1 && ports.len() != self.hosts.len() {
            return Err(format!("there are {} hosts and {} ports", self.hosts.len(), ports.len()));
        }
        for (n, host) in self.hosts.iter_mut().enumerate() {
            host.1 = ports.get(n).or(ports.first()).map(ToString::to_string);
        }
        Ok(())
    }

    fn text(&self, (host, port): &(String, Option<String>)) -> String {
        let mut text = String::from("postgres://");
        let mut host = host.clone();
        if host.is_empty() && (self.user.is_some() || port.is_some()) {
            // The default of libpq and sqlx: a socket where there is one, PGHOST where that is set.
            host = PgConnectOptions::new_without_pgpass().get_host().to_owned();
        }
        if let Some(user) = &self.user {
            text.push_str(user);
            if let Some(password) = &self.password {
                text.push_str(&format!(":{password}"));
            }
            text.push('@');
        }
        // A folder with a socket in it.
        text.push_str(&if host.starts_with('/') { encoded(&host) } else { host });
        if let Some(port) = port {
            text.push_str(&format!(":{port}"));
        }
        text.push('/');
        text.push_str(self.name.as_deref().unwrap_or_default());
        for (n, (key, value)) in self.query.iter().enumerate() {
            text.push_str(&format!("{}{key}={value}", if n == 0 { '?' } else { '&' }));
        }
        text
    }
}

fn options(url: &Url) -> Result<Vec<PgConnectOptions>, String> {
    let none = [(String::new(), None)];
    let hosts = if url.hosts.is_empty() { &none[..] } else { &url.hosts[..] };
    let one = |host: &(String, Option<String>)| url.text(host).parse().map_err(|e: sqlx::Error| plain(&e));
    hosts.iter().map(one).collect()
}

fn plain(error: &sqlx::Error) -> String {
    let why = match error {
        sqlx::Error::Configuration(why) => why.to_string(),
        other => other.to_string(),
    };
    format!("{why}; it looks like postgres://user:password@host:5432/database")
}

/// All that is no letter, digit or one of `-._~` as `%XX`.
fn encoded(text: &str) -> String {
    let one = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(one).collect()
}

/// The hosts to try, in their order.
pub(super) fn hosts(config: &Config) -> Result<Vec<PgConnectOptions>, ConfigError> {
    let said = [&config.database_url, &config.database_host, &config.database_name];
    if said.iter().all(|s| s.is_none()) {
        return Err(ConfigError::NoDatabase);
    }
    assembled(config).and_then(|url| options(&url)).map_err(ConfigError::Url)
}

/// The hosts that lead past a pooler. What their URL leaves out (user and password, name, TLS) is the database's own.
pub(super) fn direct(config: &Config) -> Result<Option<Vec<PgConnectOptions>>, ConfigError> {
    let Some(text) = &config.database_direct_url else { return Ok(None) };
    let filled = assembled(config).and_then(|own| {
        let mut url = parse(text)?;
        if url.user.is_none() {
            (url.user, url.password) = (own.user, own.password);
        }
        url.name = url.name.or(own.name);
        let missing: Vec<_> =
            own.query.into_iter().filter(|(key, _)| url.query.iter().all(|(known, _)| known != key)).collect();
        url.query.extend(missing);
        options(&url)
    });
    filled.map(Some).map_err(|why| ConfigError::Url(format!("database_direct_url: {why}")))
}

fn assembled(config: &Config) -> Result<Url, String> {
    let mut url = config.database_url.as_deref().map_or_else(|| Ok(Url::default()), parse)?;
    if let Some(hosts) = &config.database_host {
        let one = |h: &str| if h.contains(':') && !h.starts_with('[') { format!("[{h}]") } else { h.to_owned() };
        let ports: Vec<_> = url.hosts.iter().map(|(_, port)| port.clone()).collect();
        url.hosts = hosts.split(',').map(str::trim).filter(|h| !h.is_empty()).map(|h| (one(h), None)).collect();
        if let [Some(port)] = ports.as_slice() {
            url.set_ports(port)?;
        }
    }
    if let Some(ports) = &config.database_port {
        url.set_ports(ports)?;
    }
    let part = |given: &Option<String>| given.as_deref().map(encoded);
    url.name = part(&config.database_name).or(url.name);
    url.user = part(&config.database_user).or(url.user);
    url.password = part(&config.database_password).or(url.password);
    if url.password.is_some() && url.user.is_none() {
        url.user = Some(encoded(PgConnectOptions::new_without_pgpass().get_username()));
    }
    let root = config.database_sslrootcert.as_ref().map(|p| p.display().to_string());
    for (key, value) in [("sslmode", part(&config.database_sslmode)), ("sslrootcert", part(&root))] {
        if let Some(value) = value {
            url.query.retain(|(k, _)| k != key);
            url.query.push((key.to_owned(), value));
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(config: &Config) -> Vec<String> {
        let place = |o: &PgConnectOptions| {
            let host = o.get_socket().map_or_else(|| o.get_host().to_owned(), |s| s.display().to_string());
            format!("{}@{host}:{}/{}", o.get_username(), o.get_port(), o.get_database().unwrap_or("-"))
        };
        hosts(config).unwrap().iter().map(place).collect()
    }

    fn url(text: &str) -> Config {
        Config { database_url: Some(text.into()), ..Config::default() }
    }

    #[test]
    fn a_url_may_name_several_hosts_as_for_libpq() {
        assert_eq!(
            places(&url("postgres://u:p@a:1,b:2/db?sslmode=disable&target_session_attrs=read-write")),
            ["u@a:1/db", "u@b:2/db"]
        );
        assert_eq!(places(&url("postgresql://u@[::1]:5,b:6/db")), ["u@[::1]:5/db", "u@b:6/db"]);
        assert_eq!(
            places(&url("postgres://u@/db?host=/tmp/one,/tmp/two&port=7")),
            ["u@/tmp/one:7/db", "u@/tmp/two:7/db"]
        );
        assert_eq!(places(&url("postgres://u@localhost:5433/db?host=/tmp/pgdev")), ["u@/tmp/pgdev:5433/db"]);
    }

    #[test]
    fn parts_make_a_database_and_outweigh_the_url_beside_them() {
        let parts = Config {
            database_host: Some("db.internal".into()),
            database_port: Some("6000".into()),
            database_name: Some("my app".into()),
            database_user: Some("me@work".into()),
            database_password: Some("p@ss:/w?rd".into()),
            ..Config::default()
        };
        assert_eq!(places(&parts), ["me@work@db.internal:6000/my app"]);
        let both = Config {
            database_url: Some("postgres://u:p@a:1/db".into()),
            database_name: Some("other".into()),
            ..Config::default()
        };
        assert_eq!(places(&both), ["u@a:1/other"]);
        let mut several = parts.clone();
        several.database_host = Some("/run/pg, b,::1".into());
        several.database_port = Some("1,2,3".into());
        assert_eq!(places(&several)[0], "me@work@/run/pg:1/my app");
        assert_eq!(places(&several)[2], "me@work@[::1]:3/my app");
        several.database_port = Some("1,2".into());
        assert!(matches!(hosts(&several), Err(ConfigError::Url(why)) if why.contains("3 hosts and 2 ports")));
    }

    #[test]
    fn the_way_past_a_pooler_takes_what_it_leaves_out_from_the_database() {
        let config = |direct: &str| Config {
            database_url: Some("postgres://u:p@pooler:6432/app?sslmode=require".into()),
            database_direct_url: Some(direct.into()),
            ..Config::default()
        };
        let hosts = direct(&config("postgres://a:1,b:2")).unwrap().unwrap();
        let said: Vec<_> =
            hosts.iter().map(|o| (o.get_username(), o.get_host(), o.get_port(), o.get_database())).collect();
        assert_eq!(said, [("u", "a", 1, Some("app")), ("u", "b", 2, Some("app"))]);
        assert!(matches!(hosts[0].get_ssl_mode(), sqlx::postgres::PgSslMode::Require));
        let other = direct(&config("postgres://me@a/other?sslmode=disable")).unwrap().unwrap();
        assert_eq!((other[0].get_username(), other[0].get_database()), ("me", Some("other")));
        assert!(
            matches!(direct(&config("postgres://a:x/")), Err(ConfigError::Url(why)) if why.contains("database_direct_url"))
        );
    }

    #[test]
    fn nothing_said_is_no_database_and_what_is_no_url_is_told_without_its_password() {
        assert!(matches!(hosts(&Config::default()), Err(ConfigError::NoDatabase)));
        for wrong in [
            "mysql://u:geheim@h/db",
            "host=geheim",
            "postgres://u:geheim@h:port/db",
            "postgres://u:geheim@h/db?sslmode=maybe",
        ] {
            let why = check_url(wrong).unwrap_err();
            assert!(why.contains("postgres://user") && !why.contains("geheim"), "{why}");
        }
    }

    #[test]
    fn a_masked_url_shows_everything_but_the_password() {
        assert_eq!(masked("postgres://u:p@a:1,b:2/db?x=1"), "postgres://u:***@a:1,b:2/db?x=1");
        assert_eq!(masked("postgres://u:p@ss@a/db"), "postgres://u:***@a/db");
        assert_eq!(masked("postgres://a/db?user=u&password=p"), "postgres://a/db?user=u&password=***");
        assert_eq!(masked("postgres:///db"), "postgres:///db");
        assert_eq!(masked("nonsense"), "***");
    }
}
