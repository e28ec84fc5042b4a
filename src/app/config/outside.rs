//! What lets stepd in elsewhere, where it stands in the configuration as it is: in headers, environments and URLs of servers and models.

/// Does a header or a variable of this name hold what nobody else should know?
pub(super) fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["auth", "key", "token", "secret", "pass", "pwd", "cred", "cookie"].iter().any(|word| name.contains(word))
}

/// What a telling value has in it: itself, and behind a scheme (`Bearer …`, `Basic …`) what a server would tell alone. None where an
/// entry of `[secrets]` stands in it, which is known by itself.
pub(super) fn credentials(value: &str) -> Vec<String> {
    if value.contains("${{") {
        return Vec::new();
    }
    let mut all = vec![value.to_owned()];
    if let Some((scheme, rest)) = value.split_once(' ') {
        all.push(rest.trim().to_owned());
        if scheme.eq_ignore_ascii_case("basic")
            && let Some((_, password)) = decoded(rest.trim()).as_deref().and_then(|pair| pair.split_once(':'))
        {
            all.push(password.to_owned());
        }
    }
    all
}

/// The password in a URL, and what its query has under telling names.
pub(super) fn in_url(text: &str) -> Vec<String> {
    let Some(url) = reqwest::Url::parse(text).ok().filter(|_| !text.contains("${{")) else { return Vec::new() };
    let password = url.password().map(percent_decoded);
    // Without a password, a user name is a token more often than a name.
    let user = (password.is_none() && url.username().len() >= 8).then(|| percent_decoded(url.username()));
    let query = url.query_pairs().filter(|(name, _)| is_telling(name)).map(|(_, value)| value.into_owned());
    password.into_iter().chain(user).chain(query).filter(|secret| !secret.is_empty()).collect()
}

/// A URL to be shown: without its user's part and the values of its query.
pub(crate) fn masked(text: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(text) else { return text.to_owned() };
    let query: Vec<(String, bool)> =
        url.query_pairs().map(|(name, value)| (name.into_owned(), value.is_empty())).collect();
    let signed_in = !url.username().is_empty() || url.password().is_some();
    if !signed_in && query.is_empty() {
        return text.to_owned();
    }
    // Fails only for a URL without a host, which has neither.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_query(None);
    let mut shown = url.to_string();
    if signed_in {
        shown = shown.replacen("://", "://***@", 1);
    }
    for (n, (name, empty)) in query.iter().enumerate() {
        let (before, value) = (if n == 0 { '?' } else { '&' }, if *empty { "" } else { "=***" });
        shown.push_str(&format!("{before}{name}{value}"));
    }
    shown
}

fn percent_decoded(text: &str) -> String {
    // As a query's value would be read; a plus is no space here.
    let pair = format!("v={}", text.replace('+', "%2B"));
    let pairs = reqwest::Url::parse(&format!("http://h/?{pair}")).ok();
    pairs
        .and_then(|url| url.query_pairs().next().map(|(_, value)| value.into_owned()))
        .unwrap_or_else(|| text.to_owned())
}

/// Base64, of either alphabet.
fn decoded(text: &str) -> Option<String> {
    let mut bits = 0_u32;
    let (mut value, mut out) = (0_u32, Vec::new());
    for digit in text.bytes().filter(|b| *b != b'=') {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        value = (value << 6 | u32::from(six)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(value >> bits & 0xff).ok()?);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_would_tell_alone_is_known_alone() {
        assert_eq!(credentials("Bearer abc-123"), ["Bearer abc-123", "abc-123"]);
        assert_eq!(credentials("Basic dXNlcjpwQHNz"), ["Basic dXNlcjpwQHNz", "dXNlcjpwQHNz", "p@ss"]);
        assert_eq!(credentials("plain"), ["plain"]);
        assert!(credentials("Bearer ${{ secrets.pdf }}").is_empty());
        assert!(["X-Api-Key", "AUTHORIZATION", "PGPASSWORD", "Set-Cookie"].into_iter().all(is_telling));
        assert!(!is_telling("NODE_ENV"));
    }

    #[test]
    fn a_url_is_shown_without_what_lets_one_in_and_that_is_known() {
        let url = "https://ann:p%40ss@h:8443/mcp?token=t%2B1&page=2&flag=";
        assert_eq!(masked(url), "https://***@h:8443/mcp?token=***&page=***&flag");
        assert_eq!(in_url(url), ["p@ss", "t+1"]);
        assert_eq!(in_url("https://long-token-of-a-user@h/"), ["long-token-of-a-user"]);
        assert_eq!(masked("https://h/mcp"), "https://h/mcp");
        assert_eq!(masked("${{ secrets.url }}"), "${{ secrets.url }}");
        assert_eq!(in_url("postgres://a:geheim@h/db"), ["geheim"]);
        assert!(in_url("production").is_empty());
    }
}
