//! The dashboard, seen and used in a real browser.

mod access;
mod analytics;
mod api;
mod ground;
mod live;
mod many;
mod pictures;
mod texts;
