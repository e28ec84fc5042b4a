//! Filters that the library has too, but with a bound: its own would build any text that they are asked for, and fuel
//! counts instructions, not bytes.

use minijinja::value::{Kwargs, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind};

use super::bridge::Export;
use super::limits::RESULT_BYTES;

/// Takes the unbounded filters out, and puts bounded ones in.
pub(super) fn install(env: &mut Environment<'static>) {
    // Neither HTML nor debugging is ours; a width or a count given to the others would be memory without a bound.
    for filter in ["safe", "escape", "e", "pprint", "format", "indent", "batch", "slice"] {
        env.remove_filter(filter);
    }
    env.add_filter("join", join);
    env.add_filter("replace", replace);
    env.add_filter("tojson", tojson);
}

fn spend(budget: &mut usize, bytes: usize) -> Result<(), Error> {
    *budget = budget
        .checked_sub(bytes)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "the text is larger than an expression may build"))?;
    Ok(())
}

/// `join(separator="", attribute=…)`: strings bare, others as compact JSON.
fn join(value: &Jinja, separator: Option<&str>, options: Kwargs) -> Result<String, Error> {
    let attribute: Option<String> = options.get("attribute")?;
    options.assert_all_used()?;
    let separator = separator.unwrap_or_default();
    let (mut out, mut budget) = (String::new(), RESULT_BYTES);
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        let json;
        let text = match item.as_str() {
            Some(text) => text,
            None => {
                json = tojson(&item)?;
                &json
            }
        };
        let separator = if i > 0 { separator } else { "" };
        spend(&mut budget, separator.len() + text.len())?;
        out.push_str(separator);
        out.push_str(text);
    }
    Ok(out)
}

/// `replace(old, new)`.
fn replace(text: &str, old: &str, new: &str) -> Result<String, Error> {
    let grown = text.matches(old).count().saturating_mul(new.len()).saturating_add(text.len());
    spend(&mut RESULT_BYTES.clone(), grown)?;
    Ok(text.replace(old, new))
}

/// Compact JSON; the library's is meant for HTML, and escapes `<`.
fn tojson(value: &Jinja) -> Result<String, Error> {
    let json = Export::convert(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e))?;
    Ok(json.to_string())
}
